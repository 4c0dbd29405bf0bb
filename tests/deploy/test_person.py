"""What a person at the terminal is told when they end a command."""

import pytest

from deploy.commands.push import ALL_UP, HALF_UP
from deploy.terminal.person import ctrl_c_says


@pytest.mark.parametrize("words", [HALF_UP, ALL_UP])
def test_what_ctrl_c_leaves_behind_is_said(capsys, words):
    """And the command ends as one that was ended: a push left nothing but an exit status."""
    with pytest.raises(KeyboardInterrupt), ctrl_c_says(words):
        raise KeyboardInterrupt
    out, err = capsys.readouterr()

    assert (out, err) == ("", f"\n{words}\n")


def test_other_ends_have_words_of_their_own(capsys):
    with ctrl_c_says("left"):
        pass
    with pytest.raises(ValueError, match="own"), ctrl_c_says("left"):
        raise ValueError("own")

    assert capsys.readouterr().err == ""
