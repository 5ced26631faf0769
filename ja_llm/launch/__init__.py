"""Starting a training command in many processes: on this machine, on a TPU pod, under GKE or Slurm, and again when one is lost.

Nothing here imports JAX: a launch is planned on a laptop.
"""
