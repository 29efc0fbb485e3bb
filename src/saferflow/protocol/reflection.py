"""The wording of a reflection: what a policy is asked after a draft, in training rows and in rollouts alike. Source: ours."""

MISSED = "Name the risk that you missed or saw where there is none."
"""After a draft: the policy says what is wrong with it, and does not answer yet."""
ANEW = "Answer again, in the same form."
"""After the reflection: the policy answers the question that came before the draft."""
