"""The semantics of PAROAttention: contract, validation, reference, public call."""
