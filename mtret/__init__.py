"""mtret: one small encoder, instruction-fine-tuned on many retrieval tasks at once."""
