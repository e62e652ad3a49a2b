"""A diffusers pipeline as the user has it: opened, checked, run, its pictures written."""
