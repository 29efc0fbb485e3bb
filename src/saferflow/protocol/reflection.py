"""The wording of a reflection: the user's turns after a draft, the same in training rows and rollouts. Source: ours."""

MISSED = "Name the risk that you missed or saw where there is none."
"""After a draft: the policy names its faults and does not answer yet."""
ANEW = "Answer again, in the same form."
"""After the reflection: the policy answers the question that came before the draft."""
