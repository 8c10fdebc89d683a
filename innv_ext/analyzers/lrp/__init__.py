"""Layer-wise relevance propagation and Deep Taylor decomposition."""
