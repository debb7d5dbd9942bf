"""The paper's experiments, each a command that can be stopped and run again."""
