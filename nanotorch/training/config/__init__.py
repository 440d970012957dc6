"""The configuration of a run: what can be said (sections), and how it is read and explained."""
