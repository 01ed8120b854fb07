"""Messages for mistyped names."""

from subspaces.errors import unknown_name

MANY = [f"digits-fc-{width}x1" for width in range(10, 50)]


def test_a_few_names_are_written_out():
    told = "`optimizer` must be one of adam, lbfgs, sgd; got "
    assert str(unknown_name("optimizer", "sdg", ["sgd", "adam", "lbfgs"])) == told + "'sdg'. Did you mean 'sgd'?"
    assert str(unknown_name("optimizer", "??", ["sgd", "adam", "lbfgs"])) == told + "'??'."


def test_of_many_names_the_near_ones_are_told_with_the_command_that_lists_all():
    message = str(unknown_name("task", "digits-fc-20x11", MANY))
    assert message.startswith(
        "`task` must be one of 40 names; got 'digits-fc-20x11'. Did you mean 'digits-fc-20x1' or "
    )
    assert message.endswith("? All: subspaces list tasks")
    assert message.count("digits-fc") == 4  # what was typed and three near ones
    assert str(unknown_name("task", "??", MANY)).endswith("got '??'. All: subspaces list tasks")


def test_of_many_names_without_a_list_some_are_told():
    assert str(unknown_name("parameter", "??", MANY)).endswith(
        "Such as digits-fc-10x1, digits-fc-11x1, digits-fc-12x1."
    )


def test_equal_projections_have_one_hash():
    from subspaces.projections import make_projection

    one, again = (make_projection("hadamard", 5, 40, seed=3) for _ in range(2))
    other = make_projection("hadamard", 5, 40, seed=4)
    assert one == again
    assert len({one, again, other}) == 2
    assert {one: "found"}[again] == "found"
