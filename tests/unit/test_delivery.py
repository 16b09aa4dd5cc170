"""The methods of a delivery show what it can do, also for a third party's delivery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bus.delivery import Delivery, Redelivery, Unlocked, as_redelivery, is_unlocked
from consumers import canvas, microsoft_sds, oneroster_csv, webhook

HOOK = webhook.WebhookSettings(url="http://127.0.0.1:9", secret=SecretStr("whsec_" + "A" * 32))
SITE = canvas.Settings(url="http://127.0.0.1:9", token=SecretStr("t"))


def ours(folder: Path) -> dict[str, Delivery]:
    """Return the deliveries of this package, each open."""
    return {
        "canvas, a folder": canvas.PRODUCT.open(canvas.Settings(out=folder / "canvas")),
        "canvas, the API": canvas.PRODUCT.open(SITE),
        "microsoft-sds": microsoft_sds.PRODUCT.open(microsoft_sds.Settings(out=folder / "sds")),
        "oneroster-csv": oneroster_csv.PRODUCT.open(oneroster_csv.Settings(out=folder / "or")),
        "webhook": webhook.PRODUCT.open(HOOK.model_copy(update={"state": folder / "state"})),
    }


def test_our_deliveries_allow_a_replay_and_only_the_api_shares_no_lock(tmp_path: Path) -> None:
    found = ours(tmp_path)
    assert all(isinstance(one, Redelivery) and as_redelivery(one) is one for one in found.values())
    assert [name for name, one in found.items() if is_unlocked(one)] == ["canvas, the API"]
    assert [name for name, one in found.items() if isinstance(one, Unlocked)] == ["canvas, the API"]
    for one in found.values():
        one.close()


class Plain:
    """A third party's delivery without support for replays."""

    def resume(self, cluster: str, partitions: Any) -> dict[Any, int]:
        return {}

    def deliver(self, batch: Any) -> tuple[()]:
        return ()

    def settle(self) -> None: ...

    def release(self, partitions: Any) -> None: ...

    def close(self) -> None: ...


class Able(Plain):
    """A delivery that was written before the protocols had names."""

    def redeliver(self, batch: Any, replay: str, seen: Any) -> tuple[()]:
        return ()


class Alone(Able):
    unlocked = True


class SharesALock(Able):
    unlocked = False


class Disabled(Able):
    redeliver = None  # type: ignore[assignment]


class Wrapper:
    """Passes on all that it lacks itself, as a delivery that counts or logs does."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "behind a wrapper"])
@pytest.mark.parametrize(
    ("made", "able", "unlocked"),
    [
        (Plain, False, False),
        (Able, True, False),
        (Alone, True, True),
        (SharesALock, True, False),
        (Disabled, False, False),
    ],
)
def test_what_third_parties_wrote_is_taken_as_before(
    made: type[Plain], able: bool, unlocked: bool, wrapped: bool
) -> None:
    delivery: Any = Wrapper(made()) if wrapped else made()
    assert as_redelivery(delivery) is (delivery if able else None)
    assert is_unlocked(delivery) is unlocked
