"""OpenRLHF: the registered losses through its own DPO trainer, on CUDA and on machines without."""

from sparsepo_plugin.adapters.openrlhf import quiet

quiet.silence()  # before deepspeed is imported anywhere below
