"""The planner, the policy and the check behind an OpenAI-compatible server."""
