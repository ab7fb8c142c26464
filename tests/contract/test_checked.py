"""A vendor's class is checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from anychip_sdk.contract import Attention, Communicator, Memory
from anychip_sdk.kits.numpy import NumpyAllocator, NumpyAttention, NumpyOps


def test_a_misspelled_override_names_the_class_the_name_and_the_near_one():
    with pytest.raises(
        TypeError, match=r"MyOps\.gated_activaton is not part of the contract Ops; did you mean 'gated_"
    ):

        class MyOps(NumpyOps):
            def gated_activaton(self, gate, up, kind):
                return gate


def test_a_name_far_from_any_other_is_refused_without_a_guess():
    with pytest.raises(TypeError, match=r"MyOps\.zzz is not part of the contract Ops\. Private helpers") as error:

        class MyOps(NumpyOps):
            zzz = 1

    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("methods", ["renamed", "missing", "no default", "extra without default", "kind"])
def test_a_wrong_signature_names_both(methods):
    def renamed(self, hidden, w, eps):
        return hidden

    def missing(self, x, w):
        return x

    def extra(self, x, w, eps, mode):
        return x

    def keyword_only(self, x, w, *, eps):
        return x

    def no_default(self, ids, w, scale):
        return ids

    name, method = {
        "renamed": ("rms_norm", renamed),
        "missing": ("rms_norm", missing),
        "extra without default": ("rms_norm", extra),
        "kind": ("rms_norm", keyword_only),
        "no default": ("embedding", no_default),
    }[methods]
    with pytest.raises(TypeError, match=rf"MyOps\.{name}\(.*\) does not match the contract's Ops\.{name}\(self, "):
        type("MyOps", (NumpyOps,), {name: method})


def test_an_override_must_be_a_method():
    with pytest.raises(TypeError, match=r"MyOps\.linear must be a method, as in Ops"):

        class MyOps(NumpyOps):
            linear = 3


def test_right_overrides_private_helpers_and_extra_defaults_pass():
    class MyOps(NumpyOps):
        adopted = {"linear": "numpy's own"}  # noqa: RUF012 - a class attribute of the contract

        def rms_norm(self, x, w, eps, fast=False):
            return self._halve(x)

        def _halve(self, x):
            return x / 2

    assert MyOps().rms_norm(np.ones(1), None, 1e-6).tolist() == [0.5]


def test_helpers_of_a_kit_are_named_in_extends_and_reach_its_subclasses():
    class Kit(NumpyAttention):
        extends = ("tile",)
        tile = 16

    class Chip(Kit):
        tile = 32

    assert Chip().tile == 32
    with pytest.raises(TypeError, match=r"Other\.tile is not part of the contract Attention"):

        class Other(NumpyAttention):
            tile = 32


def test_an_annotation_alone_is_checked_too():
    with pytest.raises(TypeError, match=r"MyAllocator\.memry is not part of the contract Allocator; .* 'memory'"):

        class MyAllocator(NumpyAllocator):
            memry: Memory


def test_a_class_of_two_interfaces_may_define_the_names_of_both():
    class Both(NumpyAttention, Communicator):
        rank = 0
        size = 1

        def supports(self, spec):
            return None

        def barrier(self):
            return None

    assert {"all_reduce", "send"} <= Both.__abstractmethods__


def test_a_missing_abstract_method_is_found_when_an_object_is_made():
    class Half(Attention):
        def write(self, k, v, kv, batch, layer):
            return kv

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_a_mixin_outside_the_contract_is_not_checked_but_its_user_is():
    @dataclass
    class Counter:
        count: int = 0

    class Counting(Counter, NumpyOps):
        pass

    assert Counting.count == 0
