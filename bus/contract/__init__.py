"""The contract suite: the tests that every source and product must pass, also a third party's.

It needs `pytest` and `hypothesis` (the extra `schoolbus[dev]`). The test of a product is

    from bus.contract import ProductContract
    from lunch import PRODUCT

    class TestLunch(ProductContract):
        product = PRODUCT

        def open(self, folder):                # a new delivery to this folder (or to a fake of
            return PRODUCT.open(…)             # the product); called again, as after a restart

        def state(self, folder):               # what the product has now: anything comparable
            return {…}

and the test of a source is

    from bus.contract import SourceContract
    from oursis import SOURCE

    class TestOurSis(SourceContract):
        source = SOURCE
        marker = "Zebulon Marker"

        def extract(self, folder):             # a small extract with a person of that name
            …
"""

from bus.contract.example_records import a_record, records
from bus.contract.fake_messages import Sent
from bus.contract.product_contract import ProductContract
from bus.contract.source_contract import SourceContract

__all__ = ["ProductContract", "Sent", "SourceContract", "a_record", "records"]
