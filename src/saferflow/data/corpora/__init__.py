"""Published corpora, a file each, as their authors lay them out on disk; `docs/corpora.md` lists them."""

from saferflow.data.corpora import (
    beavertails_v,
    figstep,
    jailbreakv,
    mm_safetybench,
    mossbench,
    mssbench,
    siuo,
    spa_vl,
    vlguard,
    xstest,
)
from saferflow.data.corpora.corpus import Corpus

CORPORA: dict[str, Corpus] = {
    module.CORPUS.name: module.CORPUS
    for module in (
        beavertails_v, spa_vl, mm_safetybench, mssbench, vlguard, siuo, figstep, mossbench, xstest, jailbreakv,
    )
}  # fmt: skip
