"""Apache Beam corpus jobs: one module a stage, one entry point a job. Never imports JAX."""
