"""What is written by hand because XLA would do it more slowly, or keep more: attention for several devices, products
with narrow operands, and derivatives that make again what autodiff would keep. Each equals its definition, which the
tests differentiate by JAX."""
