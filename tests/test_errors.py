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
