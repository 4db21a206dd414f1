"""The line between sites and their coordinator: gRPC over TLS 1.3, certificates at both ends. Nothing else knows it."""
