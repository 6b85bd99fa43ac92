import pytest

from sparsercnn.modeling import build_interaction, build_matcher, build_proposals


@pytest.mark.parametrize(
    "build,key",
    [
        (build_interaction, "INTERACTION"),
        (build_matcher, "MATCHER"),
        (build_proposals, "PROPOSALS"),
    ],
)
def test_unknown_parts_are_refused_with_the_known_ones(tiny_cfg, build, key):
    node = getattr(tiny_cfg.MODEL.SparseRCNN, key)
    if isinstance(node, str):
        tiny_cfg.MODEL.SparseRCNN[key] = "nonesuch"
    else:
        node.NAME = "nonesuch"
    known = {"INTERACTION": "dynamic_conv", "MATCHER": "hungarian", "PROPOSALS": "learned"}[key]
    with pytest.raises(ValueError, match=f"No 'nonesuch' in the {key}.*{known}"):
        build(tiny_cfg)
