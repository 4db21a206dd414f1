"""Secure sums: the server learns the sum of the clients' vectors and nothing else of them."""

from fedloom.secure.secure_sum import secure_sum
from fedloom.secure.shares_sum import shares_sum

__all__ = ["secure_sum", "shares_sum"]
