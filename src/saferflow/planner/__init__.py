"""Plans and references: the rule planner and teacher, those behind a server, and the perturbations that give rejected answers."""
