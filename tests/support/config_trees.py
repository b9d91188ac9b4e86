"""Trees of settings, right and wrong, drawn at random."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from wisesr_cli.config.schema import NAMED, Config

SCHEMA = Config.model_json_schema()

KEYS = sorted({key for node in (SCHEMA, *SCHEMA["$defs"].values()) for key in node.get("properties", {})})

WORDS = sorted(
    {word for named in NAMED.values() for word in named.records}
    | {
        "none",
        "light",
        "paper",
        "group",
        "auto",
        "(?\udcff",
        "loss",
        "val_loss",
        "backbone",
        "imagenet",
        "Xception",
        "224x96",
        "(",
    }
)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
    | st.sampled_from([0, 1, 2, 224, 0.5, 1e-3, 10**40, "\udcff", "\0", "~x", "a.b", "train.epochs"])
)  # fmt: skip


def section(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return mappings with the keys of a section, its values mostly wrong."""
    keys = list(schema.get("properties", {}))
    return st.dictionaries(st.sampled_from([*keys, "name", "xyzzy"]), TREES, max_size=4)


TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)

CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("schema_version", "name", "output_dir", "seed", "xyzzy"), TREES),
        **{
            key: TREES | section(SCHEMA["$defs"][record])
            for key, record in (
                ("data", "DataConfig"),
                ("train", "TrainConfig"),
                ("model", "ModelConfig"),
                ("augment", "AugmentConfig"),
            )
        },
    },
)
