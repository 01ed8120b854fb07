"""PEFT told of the method. Its list of types is an enumeration, to which nothing can be added by its own means."""

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

NAME = "subspace"


def peft_type() -> Any:
    """The member of `PeftType` for this method; made at the first call."""
    known: Any = PeftType
    value = NAME.upper()
    if value not in known._value2member_map_:
        member = str.__new__(known, value)
        member._name_, member._value_ = value, value
        known._member_names_.append(value)
        known._member_map_[value] = known._value2member_map_[value] = member
        type.__setattr__(known, value, member)
    return known._value2member_map_[value]


def register() -> None:
    """Let PEFT find configuration and tuner by the type; the second time nothing happens."""
    from subspaces.integrations.peft.config import SubspaceConfig
    from subspaces.integrations.peft.model import SubspaceModel

    if peft_type() not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME, config_cls=SubspaceConfig, model_cls=SubspaceModel, prefix=SubspaceModel.prefix)
