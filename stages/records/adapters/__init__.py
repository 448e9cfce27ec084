"""The formats by name, each `module:Class`; nothing is imported before it is asked for."""

from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from stages.contracts import UserError
from stages.records.adapter import Adapter
from stages.records.schemas import Record
from stages.records.sources import SourceConfig

HOME = "stages.records.adapters"
ADAPTERS = {
    "generic": f"{HOME}.generic:Generic",
    "plain_text": f"{HOME}.plain_text:PlainText",
    "messages": f"{HOME}.conversations:Conversations",
    "alpaca": f"{HOME}.instructions:Alpaca",
    "dolly": f"{HOME}.instructions:Dolly",
    "hh_rlhf": f"{HOME}.hh_rlhf:HhRlhf",
    "ultrafeedback": f"{HOME}.ultrafeedback:UltraFeedback",
    "ultrafeedback_binarized": f"{HOME}.ultrafeedback_binarized:UltraFeedbackBinarized",
    "nectar": f"{HOME}.nectar:Nectar",
    "shp": f"{HOME}.shp:Shp",
    "webgpt_comparisons": f"{HOME}.webgpt_comparisons:WebGpt",
    "summarize_from_feedback": f"{HOME}.summarize_from_feedback:SummarizeFromFeedback",
    "summarize_from_feedback_axis": f"{HOME}.summarize_from_feedback:SummarizeAxis",
    "lm_human_preferences": f"{HOME}.lm_human_preferences:LmHumanPreferences",
    "chatbot_arena": f"{HOME}.chatbot_arena:ChatbotArena",
    "helpsteer2": f"{HOME}.helpsteer:HelpSteer2",
    "helpsteer2_preference": f"{HOME}.helpsteer:HelpSteer2Preference",
    "helpsteer3": f"{HOME}.helpsteer:HelpSteer3",
    "oasst": f"{HOME}.oasst:Oasst",
    "tulu3": f"{HOME}.preference_pairs:Tulu3",
    "reward_bench": f"{HOME}.preference_pairs:RewardBench",
}


def adapter_module(name: str) -> str:
    """The module behind a name of ADAPTERS, or of `module:Class`; it need not be there."""
    return ADAPTERS.get(name, name).partition(":")[0]


def adapter_class(name: str) -> type[Adapter]:
    """The class behind a name of ADAPTERS, or behind the import path `module:Class`.

    Raises:
        UserError: neither.
    """
    module, colon, attribute = ADAPTERS.get(name, name).partition(":")
    hint = f"one of {', '.join(ADAPTERS)}, or module:Class of your own"
    if not colon:
        raise UserError("there is no such adapter", got=name, do=hint)
    try:
        found = vars(import_module(module)).get(attribute)
    except ImportError as error:
        raise UserError(f"the adapter {name} cannot be imported", got=str(error), do=hint) from None
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise UserError(
            f"the adapter {name} is not a class of stages.records.adapter.Adapter",
            got=repr(found),
            do=hint,
        )
    return found


def make_adapter(source: SourceConfig, kind: type[Record]) -> Adapter:
    """The source's format with its options, able to make records of this kind.

    Raises:
        UserError: an unknown format or option, or a format without that table.
    """
    found = adapter_class(source.adapter)
    if not found.makes(kind):
        makers = [name for name in ADAPTERS if adapter_class(name).makes(kind)]
        raise UserError(
            f"the format {source.adapter} makes no {kind.__name__.lower()}",
            got=source.adapter,
            do=f"adapter: one of {', '.join(makers)}",
        )
    return found(**_options(found, source))


def _options(found: type[Adapter], source: SourceConfig) -> dict[str, Any]:
    known = {spec.name: spec for spec in fields(found)}  # type: ignore[arg-type]
    unknown = sorted(source.options.keys() - (known.keys() - {"columns"}))
    if unknown:
        raise UserError(
            f"the format {source.adapter} has no option {unknown[0]}",
            got=f"{unknown[0]}={source.options[unknown[0]]}",
            do=f"its options: {', '.join(sorted(known.keys() - {'columns'})) or 'none'}",
        )
    if source.columns and "columns" not in known:
        raise UserError(
            f"the format {source.adapter} has columns of its own",
            got=f"columns={dict(source.columns)}",
            do="leave columns out, or use adapter=generic",
        )
    for name, value in source.options.items():
        _check_type(source.adapter, name, value, known[name].default)
    return dict(source.options) | ({"columns": dict(source.columns)} if source.columns else {})


def _check_type(adapter: str, name: str, value: Any, default: Any) -> None:
    """An option is of the type of its default; a whole number will do for any other."""
    wanted = type(default)
    if default is MISSING or type(value) is wanted or (wanted is float and type(value) is int):
        return
    raise UserError(
        f"the option {name} of {adapter} is a {wanted.__name__}",
        got=repr(value),
        do=f"for example {name}={default!r}",
    )
