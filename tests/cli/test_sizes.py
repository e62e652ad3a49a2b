"""Sizes as people type them: the order that is wanted, or an error that has the right form."""

from __future__ import annotations

import pytest

from paro_trt.cli.sizes import parse_latent_size, parse_picture_size, parse_video_size
from paro_trt.errors import ArgumentError


def test_the_order_that_is_wanted():
    assert parse_video_size("--video", "81, 480,832") == (81, 480, 832)
    assert parse_video_size("--video", "97,512,512") == (97, 512, 512)
    assert parse_video_size("--video", "257,256,256") == (257, 256, 256)
    assert parse_picture_size("--size", "768,1024") == (768, 1024)
    assert parse_latent_size("--latent", "21,60,105") == (21, 60, 105)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("832x480x81", "--video 81,480,832 is 81 frames of 832 x 480"),
        ("832,480,81", "--video 81,480,832 is 81 frames of 832 x 480"),
        ("81x480x832", "--video 81,480,832 is 81 frames of 832 x 480"),
        ("480*832*49", "--video 49,832,480 is 49 frames of 480 x 832"),
        ("81 480 832", "--video 81,480,832"),
        ("480p", "such as 81,480,832"),
        ("81,480", "such as 81,480,832"),
        ("-81,480,832", "--video 81,480,832"),
        ("", "such as 81,480,832"),
    ],
)
def test_another_order_is_met_with_the_right_form(text, form):
    with pytest.raises(ArgumentError) as error:
        parse_video_size("--video", text)
    assert form in str(error.value)
    assert error.value.subject == "--video"


def test_of_images_and_latents():
    with pytest.raises(ArgumentError, match="--size 768,1024 is 1024 x 768"):
        parse_picture_size("--size", "1024x768")
    with pytest.raises(ArgumentError, match="of latents, such as 21,60,104"):
        parse_latent_size("--latent", "21x60x104")
