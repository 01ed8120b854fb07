"""A method of PEFT: adapters of d numbers. Importing this registers it; `SubspaceConfig` is what PEFT is given.

from subspaces.integrations.peft import SubspaceConfig

model = get_peft_model(model, SubspaceConfig(d=1000, r=4))
"""

from subspaces.integrations.peft.config import SubspaceConfig
from subspaces.integrations.peft.layer import SubspaceLayer
from subspaces.integrations.peft.model import SubspaceModel, hotswap
from subspaces.integrations.peft.register import register

register()

__all__ = ["SubspaceConfig", "SubspaceLayer", "SubspaceModel", "hotswap"]
