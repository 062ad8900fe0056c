"""OpenRLHF: the registered losses through its own DPO trainer, on CUDA and on machines without."""
