"""Who writes plans and references: the rule planner and teacher, and the perturbations that make rejected answers."""
