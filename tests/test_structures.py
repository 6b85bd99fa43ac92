import torch

from sparsercnn.structures import Assignment, Targets


def test_targets_are_padded_with_the_whole_image(make_targets):
    targets = make_targets(
        ((20, 40), [[1, 2, 3, 4]], [2]),
        ((30, 50), [], []),
        ((10, 10), [[0, 0, 5, 5], [5, 5, 10, 10]], [1, 0]),
    )
    assert targets.counts == [1, 0, 2]
    assert targets.valid.tolist() == [[True, False], [False, False], [True, True]]
    assert targets.image_sizes[1].tolist() == [50, 30, 50, 30]
    assert targets.boxes[0, 0].tolist() == [1, 2, 3, 4]
    assert targets.boxes[0, 1].tolist() == [0, 0, 40, 20]
    assert targets.boxes[1].tolist() == [[0, 0, 50, 30]] * 2
    assert targets.classes.tolist() == [[2, 0], [0, 0], [1, 0]]


def test_targets_of_empty_images_have_one_padded_row(make_targets):
    targets = make_targets(((20, 40), [], []), ((30, 50), [], []))
    assert targets.boxes.shape == (2, 1, 4)
    assert not targets.valid.any()


def test_targets_are_padded_where_their_instances_are(make_instances):
    images = [make_instances((20, 40), [[1, 2, 3, 4]], [2]), make_instances((30, 50))]
    targets = Targets.from_instances([x.to("meta") for x in images], "meta")
    for field in (targets.boxes, targets.classes, targets.valid, targets.image_sizes):
        assert field.device.type == "meta"
    assert targets.boxes.shape == (2, 1, 4) and targets.boxes.dtype == torch.float32


def test_assignment_looks_up_its_objects():
    # One stage, two images, three proposals.
    assignment = Assignment(torch.tensor([[[1, -1, 0], [-1, -1, 1]]]), torch.ones(1))
    assert assignment.num_positives.tolist() == [3]
    classes = assignment.gather(torch.tensor([[10, 11], [20, 21]]))
    assert classes[assignment.positive].tolist() == [11, 10, 21]
    boxes = assignment.gather(torch.arange(16.0).view(2, 2, 4))
    assert boxes[0, 1, 2].tolist() == [12, 13, 14, 15]
    (proposals, objects), (proposals2, objects2) = assignment.pairs()
    assert proposals.tolist() == [0, 2] and objects.tolist() == [1, 0]
    assert proposals2.tolist() == [2] and objects2.tolist() == [1]
