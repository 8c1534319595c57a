"""The benchmark's call of HOTPANTS, against a stand-in for its program."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
PROGRAM = """#!{python}
import json, sys
import numpy as np
from astropy.io import fits
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert sum(word.startswith("-") for word in sys.argv[1::2]) == len(sys.argv[1::2])
json.dump(words, open({record!r}, "w"))
read = lambda key: fits.getdata(words[key]).astype(float)
fits.writeto(words["-outim"], read("-inim") - read("-tmplim"))
fits.writeto(words["-oni"], np.hypot(read("-ini"), read("-tni")))
fits.writeto(words["-omi"], (read("-imi") + read("-tmi") > 0).astype(np.int16))
"""


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    from lib import differencing_methods, differencing_pair

    return differencing_methods, differencing_pair


@pytest.mark.parametrize(("kind", "convolved"), [(0, "t"), (1, "i")])
def test_hotpants_gets_both_images_and_its_difference_is_read_back(
    kind: int, convolved: str, lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods, pairs = lib
    program, record = tmp_path / "hotpants", tmp_path / "words.json"
    program.write_text(PROGRAM.format(python=sys.executable, record=str(record)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    pair = pairs.make_pair(pairs.KINDS[kind], 200, 3)
    result = methods.hotpants(pair)
    science, template = pair.science, pair.template
    assert_allclose(result.image, science.image - template.image, atol=0.02)
    good = (science.mask | template.mask) == 0
    assert (result.bad == ~good).all()
    assert_allclose(result.variance[good], (science.variance + template.variance)[good], rtol=1e-5)
    assert np.isinf(result.variance[~good]).all()
    assert f'"-c": "{convolved}"' in record.read_text()


def test_without_the_program_the_row_says_where_it_is_to_be_had(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods, pairs = lib
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(methods.Absent, match="no program 'hotpants' on PATH"):
        methods.hotpants(pairs.make_pair(pairs.KINDS[0], 200, 3))
