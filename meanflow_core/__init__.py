"""The MeanFlow trainer (arXiv 2505.13447): needs torch, numpy, omegaconf and safetensors, and nothing of the sweep."""
