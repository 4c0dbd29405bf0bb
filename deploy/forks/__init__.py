"""How `up` starts roles: forked from one process that has imported what they need."""
