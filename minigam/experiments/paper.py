"""The paper's own numbers (arXiv 2509.00605), for comparison with ours."""

# Table 1: million parameters, seconds per epoch, validation loss in nats, validation perplexity.
TABLE1 = {
    "wikitext-2": {
        "transformer": (24.2, 131.9, 6.8233, 918.99),
        "mamba": (20.5, 127.1, 6.9251, 1017.54),
        "gam": (22.6, 117.2, 6.7828, 882.57),
    },
    "tinystories": {"transformer": (24.2, 671.6, 3.1591, 23.55), "gam": (22.6, 601.4, 3.1418, 23.15)},
}
# Table 2: one block, forward and backward, batch 16, mixed precision; milliseconds and megabytes.
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
TABLE2: dict[str, dict[str, tuple]] = {
    "gam": {
        "time_ms": (8.97, 13.09, 25.86, 51.94, 105.03, 217.30),
        "peak_mb": (179.42, 325.48, 617.60, 1201.85, 2370.35, 4707.35),
    },
    "transformer": {
        "time_ms": (8.90, 23.86, 74.19, 279.37, None, None),  # None: out of memory
        "peak_mb": (216.03, 552.98, 1964.79, 7483.92, None, None),
    },
}
# Table 3, WikiText-2: million parameters, validation perplexity.
TABLE3 = {"gated": (22.6, 900.84), "global": (19.4, 905.45), "sum": (19.4, 942.59), "local": (17.9, 944.70)}
