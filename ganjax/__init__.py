"""ganjax: generative adversarial networks in JAX."""
