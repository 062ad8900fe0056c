"""SparsePO: preference optimisation with a learned weight for every response token.

The core (types, token statistics, losses, masks, metrics) is pure torch. Training frameworks are
imported only by the modules under ``adapters``.

Source: Christopoulou et al., Findings of EMNLP 2025, pp. 25477-25503, arXiv 2410.05102.
"""

import warnings

# torch says this on every start where OpenRLHF's requirement pynvml is installed; nobody can act on it.
warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)

__version__ = "0.1.0"
