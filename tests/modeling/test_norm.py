import sparsercnn.modeling.norm as norm_module
from sparsercnn.modeling.norm import choose_norm


def test_norm_is_chosen_for_the_run(monkeypatch):
    for norm in ("auto", "SyncBN", "naiveSyncBN"):
        assert choose_norm(norm, "cpu") == choose_norm(norm, "cuda") == "BN"
    monkeypatch.setattr(norm_module.comm, "get_world_size", lambda: 2)
    assert choose_norm("auto", "cuda") == choose_norm("auto", "cuda:1") == "SyncBN"
    assert choose_norm("naiveSyncBN", "cuda") == "naiveSyncBN"
    assert choose_norm("auto", "cpu") == choose_norm("SyncBN", "cpu") == "BN"
    for norm in ("", "GN", "BN", "FrozenBN"):
        assert choose_norm(norm, "cpu") == choose_norm(norm, "cuda") == norm
