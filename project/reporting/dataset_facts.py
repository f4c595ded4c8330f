"""What is published about the sets and corpora that the project knows, for their cards."""

from dataclasses import dataclass

UNKNOWN = "unknown"  # Hugging Face's word for a licence that nobody states
LICENCES = {  # the pages of those below
    "mit": "https://spdx.org/licenses/MIT.html",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "bsd-3-clause": "https://spdx.org/licenses/BSD-3-Clause.html",
    "psf-2.0": "https://spdx.org/licenses/PSF-2.0.html",
}
NOT_OF_THE_HUB = ("psf-2.0",)  # Hugging Face has no word for these


@dataclass(frozen=True)
class Facts:
    """What is published about a set.

    Attributes:
        title: Its name for a reader.
        url: Where it is described.
        licence: As SPDX names it, small; `unknown` where none is stated, or sources disagree.
        licence_note: Where the licence is stated, or why it is unknown.
        creators: Who made it.
        collected: From what, and how.
        published: Year; nothing where it has none.
        citation: BibTeX; nothing where none is known.
        language: ISO 639-1, of a text.
    """

    title: str
    url: str
    licence: str
    licence_note: str
    creators: tuple[str, ...]
    collected: str
    published: str = ""
    citation: str = ""
    language: str = ""


KNOWN = {
    "Digits": Facts(
        "Optical Recognition of Handwritten Digits (8 x 8, as in scikit-learn)",
        "https://archive.ics.uci.edu/dataset/80",
        UNKNOWN,
        "look at the page of the UCI repository before it is passed on",
        ("E. Alpaydin", "C. Kaynak"),
        "Digits of 43 people from preprinted forms, as 32 x 32 bitmaps by the programs of NIST, "
        "counted in blocks of 4 x 4: 0 to 16. scikit-learn ships the 1,797 of the test part, by 13 "
        "people; the test split here is a stratified fifth, so its writers were trained on.",
        "1998",
        "@misc{alpaydin1998optical, title={Optical Recognition of Handwritten Digits}, "
        "author={Alpaydin, E. and Kaynak, C.}, year={1998}, "
        "howpublished={UCI Machine Learning Repository}}",
    ),
    "MNIST": Facts(
        "MNIST handwritten digits",
        "http://yann.lecun.com/exdb/mnist/",
        UNKNOWN,
        "its authors' page states none, and others who pass it on name different ones",
        ("Yann LeCun", "Corinna Cortes", "Christopher J. C. Burges"),
        "Digits of employees of the US Census Bureau and of high-school students, from Special "
        "Databases 1 and 3 of NIST, scaled to 20 x 20, centred in 28 x 28 by their centre of mass.",
        "1998",
        "@article{lecun1998gradient, title={Gradient-based learning applied to document "
        "recognition}, author={LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, "
        "Patrick}, journal={Proceedings of the IEEE}, volume={86}, number={11}, "
        "pages={2278--2324}, year={1998}}",
    ),
    "FashionMNIST": Facts(
        "Fashion-MNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        "mit",
        "LICENSE of its repository",
        ("Han Xiao", "Kashif Rasul", "Roland Vollgraf"),
        "Product pictures of Zalando's shop, made grey and 28 x 28.",
        "2017",
        "@misc{xiao2017fashion, title={Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine Learning Algorithms}, author={Xiao, Han and Rasul, Kashif and Vollgraf, Roland}, "
        "year={2017}, eprint={1708.07747}, archivePrefix={arXiv}}",
    ),
    "KMNIST": Facts(
        "Kuzushiji-MNIST",
        "https://github.com/rois-codh/kmnist",
        "cc-by-sa-4.0",
        "README of its repository; it asks for the words: KMNIST Dataset (created by CODH), "
        "adapted from Kuzushiji Dataset (created by NIJL and others), doi:10.20676/00000341",
        ("Center for Open Data in the Humanities (CODH)",),
        "Hiragana out of scanned books of the Kuzushiji Dataset, 28 x 28.",
        "2018",
        "@misc{clanuwat2018deep, title={Deep Learning for Classical Japanese Literature}, "
        "author={Clanuwat, Tarin and Bober-Irizar, Mikel and Kitamoto, Asanobu and Lamb, Alex and "
        "Yamamoto, Kazuaki and Ha, David}, year={2018}, eprint={1812.01718}, "
        "archivePrefix={arXiv}}",
    ),
    "EMNIST": Facts(
        "EMNIST letters and digits",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        UNKNOWN,
        "the project found none stated",
        ("Gregory Cohen", "Saeed Afshar", "Jonathan Tapson", "Andr\u00e9 van Schaik"),
        "Letters and digits of NIST Special Database 19, made as MNIST's, 28 x 28.",
        "2017",
        "@misc{cohen2017emnist, title={EMNIST: an extension of MNIST to handwritten letters}, "
        "author={Cohen, Gregory and Afshar, Saeed and Tapson, Jonathan and van Schaik, "
        "Andr{\\'e}}, year={2017}, eprint={1702.05373}, archivePrefix={arXiv}}",
    ),
    "QMNIST": Facts(
        "QMNIST",
        "https://github.com/facebookresearch/qmnist",
        "bsd-3-clause",
        "README of its repository; its LICENSE speaks of the software",
        ("Chhavi Yadav", "L\u00e9on Bottou"),
        "MNIST made again from NIST Special Database 19, with all 60,000 test images.",
        "2019",
        "@inproceedings{yadav2019cold, title={Cold Case: The Lost MNIST Digits}, author={Yadav, "
        "Chhavi and Bottou, L{\\'e}on}, booktitle={Advances in Neural Information Processing "
        "Systems 32}, year={2019}}",
    ),
    "CIFAR10": Facts(
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        UNKNOWN,
        "its page states none",
        ("Alex Krizhevsky", "Vinod Nair", "Geoffrey Hinton"),
        "Photographs of the web out of the 80 million tiny images, labelled by paid students; that "
        "collection has been withdrawn by its authors.",
        "2009",
        "@techreport{krizhevsky2009learning, title={Learning Multiple Layers of Features from "
        "Tiny Images}, author={Krizhevsky, Alex}, institution={University of Toronto}, "
        "year={2009}}",
    ),
    "PythonDocs": Facts(
        "Help topics of CPython",
        "https://docs.python.org/3/",
        "psf-2.0",
        "the documentation of Python is under the PSF License Version 2, and code in it also "
        "under the Zero-Clause BSD License",
        ("Python Software Foundation",),
        "The topics of pydoc_data in the Python that prepared them, in the order of their names; "
        "the text differs a little between versions of Python.",
        language="en",
    ),
    "TinyShakespeare": Facts(
        "Tiny Shakespeare",
        "https://github.com/karpathy/char-rnn",
        UNKNOWN,
        "the plays are in the public domain; nothing is stated for this selection of them",
        ("Andrej Karpathy",),
        "40,000 lines out of Shakespeare's plays, joined to one file.",
        "2015",
        "@misc{karpathy2015charrnn, title={char-rnn}, author={Karpathy, Andrej}, year={2015}, "
        "howpublished={https://github.com/karpathy/char-rnn}}",
        language="en",
    ),
}
