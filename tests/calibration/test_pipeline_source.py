"""Calibration on sentences: the user's pipeline runs, its calls are recorded and replayed."""

import dataclasses

import pytest
import torch

import paro_trt
from paro_trt.calibration import CalibrationSettings, calibrate
from paro_trt.calibration.calls import RecordedCall, load_values, one_sample
from paro_trt.calibration.capture import capture_attention
from paro_trt.calibration.cost import count_forwards
from paro_trt.calibration.effects import prediction
from paro_trt.calibration.embeddings_source import EmbeddingsSource
from paro_trt.calibration.run import CalibrationRun
from paro_trt.errors import ArgumentError, ModelError
from paro_trt.families.registry import family_for
from paro_trt.models.prompts import Prompts
from paro_trt.models.schedules import Schedule
from paro_trt.pipelines.calibrate import planned_transformer, source_of
from paro_trt.pipelines.request import Request
from tests.support.pipelines import PIPELINES, pipeline_of

SETTINGS = CalibrationSettings(
    block_q=64, captured_steps=1, candidate_orders=("fhw", "whf"), time_attention=False
)
TEXTS = ("a red ball rolls", "a blue dog jumps")


def request_of(tiny, **changes):
    call = {name: of for name, of in tiny.call.items() if name != "num_inference_steps"}
    own = {name: call.pop(name, None) for name in ("height", "width", "num_frames")}
    return Request("-", **({"steps": 4, **own, "arguments": call} | changes))


def source(tiny, pipe=None, texts=TEXTS, transformer=None, **changes):
    return source_of(pipe or tiny.build(), texts, request_of(tiny, **changes), transformer)


def counted(pipe):
    """A list that grows with every forward that a transformer computes."""
    calls = []
    for name in ("transformer", "transformer_2"):
        if (model := getattr(pipe, name, None)) is not None:
            site = family_for(type(model).__name__).sites(dict(model.config))[0].name
            attention = model.get_submodule(site)
            attention.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


@pytest.mark.parametrize("tiny", PIPELINES, ids=lambda tiny: tiny.name)
def test_the_rehearsal_computes_nothing_and_foretells_the_run(tiny):
    pipe = tiny.build()
    computed = counted(pipe)
    steps = {"steps": 6}
    role = "transformer" if getattr(pipe.config, "boundary_ratio", None) else None
    made = source(tiny, pipe, transformer=role, **steps)
    assert computed == []
    expected = tiny.tiny.geometry()
    assert made.geometry.grid == expected.grid
    # A pipeline that does not fill its text up gives the tokens of the prompt alone.
    assert made.geometry.text == expected.text or made.geometry.text.padded
    assert made.steps == 6
    assert list(made.timesteps) == sorted(made.timesteps, reverse=True)
    wanted = {made.served.start, made.served.stop - 1}
    with tiny.around():
        calls = made.record(0, 5, wanted, lambda _step: None)
    assert set(calls) == wanted
    assert len(computed) == sum(made.forwards[: max(wanted)])
    for step, call in calls.items():
        assert call.timestep == pytest.approx(made.timesteps[step])


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_recorded_calls_are_those_of_the_pipelines_own_run(name):
    """The latents that enter a step, guided and not, as a run without any recording has them."""
    tiny = pipeline_of(name)
    pipe = tiny.build()
    made = source(tiny, pipe, guidance_scale=4.0)
    calls = made.record(1, 7, {2}, lambda _step: None)
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda _model, _args, kwargs: seen.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    tiny.run(pipe, seed=7, prompt=TEXTS[1], num_inference_steps=4, guidance_scale=4.0)
    expected = seen[sum(made.forwards[:2])][-1:]
    assert torch.equal(calls[2].arguments["hidden_states"], expected)


@pytest.mark.parametrize(
    ("name", "transformer"), [("wan", None), ("wan-2.2-a14b", "transformer_2")]
)
def test_predictions_are_guided_as_the_pipeline_guides_them(name, transformer):
    """What the scheduler is given, from the recorded calls of both prompts."""
    tiny = pipeline_of(name)
    pipe = tiny.build()
    scales = {"guidance_scale": 4.0, **({"guidance_scale_2": 2.5} if transformer else {})}
    made = source(tiny, pipe, steps=8, transformer=transformer, **scales)
    step = made.served[0]
    calls = made.record(1, 7, {step, step + 1}, lambda _step: None)
    assert calls[step].guidance == list(scales.values())[-1]
    # The run ends before the negative prompt's call.
    assert calls[step + 1].negative is None
    given, own = [], pipe.scheduler.step

    def watched(prediction, *arguments, **options):
        given.append(prediction)
        return own(prediction, *arguments, **options)

    pipe.scheduler.step = watched
    tiny.run(pipe, seed=7, prompt=TEXTS[1], num_inference_steps=8, **scales)
    found = prediction(CalibrationRun(made, SETTINGS), calls[step], {})
    torch.testing.assert_close(found, given[step].float(), rtol=1e-4, atol=1e-4)


def test_a_replay_shows_the_attention_inputs_of_the_run():
    tiny = pipeline_of("wan")
    pipe = tiny.build()
    made = source(tiny, pipe)
    call = made.record(0, 3, {1}, lambda _step: None)[1]
    shown = {}
    capture_attention(
        made.loaded, made.geometry, call, made.device,
        lambda layer, _site, query, _key, _value, _scale: shown.setdefault(layer, query),
    )  # fmt: skip
    assert set(shown) == set(range(len(made.loaded.family.sites(made.loaded.config))))
    assert all(len(query) == made.geometry.tokens for query in shown.values())


def test_a_pipeline_and_its_embeddings_give_the_same_plan(tmp_path):
    """Where a pipeline samples as its family does, both ways of calibrating agree."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny = pipeline_of("wan")
    pipe = tiny.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    # Wan pads a prompt of fewer tokens with zeros to this length.
    embeds = pipe.encode_prompt(
        list(TEXTS), do_classifier_free_guidance=False, max_sequence_length=12
    )[0]
    request = {"guidance_scale": 1.0, "arguments": {"max_sequence_length": 12}}
    on_texts = calibrate(source(tiny, pipe, **request), SETTINGS, tmp_path / "texts")
    loaded, _ = planned_transformer(pipe)
    prompts = Prompts(TEXTS, {"encoder_hidden_states": embeds})
    embedded = EmbeddingsSource(loaded, prompts, tiny.tiny.latent_size, Schedule(4, 3.0))
    on_embeddings = calibrate(embedded, SETTINGS, tmp_path / "embeddings")
    assert [layer.heads for layer in on_texts.layers] == [
        layer.heads for layer in on_embeddings.layers
    ]
    assert on_texts.bin_boundaries == on_embeddings.bin_boundaries


def test_prompts_of_several_lengths_share_a_plan(tmp_path):
    """Qwen-Image gives the attention as many text tokens as a prompt has."""
    tiny = pipeline_of("qwen_image")
    pipe = tiny.build()
    texts = ("a ball", "a small red ball rolls left and a dog jumps")
    made = source(tiny, pipe, texts)
    short, long = (source(tiny, pipe, [text]).geometry.text.count for text in texts)
    assert short < long == made.geometry.text.count
    with pytest.raises(ArgumentError, match=f"text_tokens .*at least {long}.* prompt 2"):
        source_of(pipe, texts, request_of(tiny), text_tokens=short)
    roomy = source_of(pipe, texts, request_of(tiny), text_tokens=long + 5)
    exact = dataclasses.replace(SETTINGS, density=1.0, qk_bits=16, pv_bits=16)
    plan = calibrate(roomy, exact, tmp_path / "plan")
    assert plan.text.count == long + 5
    dense = tiny.run(pipe, prompt=texts[0])
    paro_trt.apply(pipe, plan)
    torch.testing.assert_close(tiny.run(pipe, prompt=texts[0]), dense, rtol=1e-4, atol=1e-4)
    paro_trt.remove(pipe)


def test_every_forward_was_announced(tmp_path):
    tiny = pipeline_of("wan")
    pipe = tiny.build()
    made = source(tiny, pipe, guidance_scale=3.0)
    heldout = made.with_texts(["a yellow cat"])
    run = CalibrationRun(made, CalibrationSettings(block_q=64, candidate_orders=("fhw",)))
    announced = count_forwards(run, CalibrationRun(heldout, run.settings))
    computed, notes = counted(pipe), []

    class Notes:
        def start(self, *_):
            pass

        advance = start

        def note(self, message):
            notes.append(message)

    calibrate(made, run.settings, tmp_path / "plan", heldout=heldout, progress=Notes())
    assert len(computed) == announced.total
    assert f"{announced.total} forwards in all" in notes[0]


class InterruptionError(Exception):
    pass


class InterruptedAfter:
    """A progress that raises when so many units are done."""

    def __init__(self, units):
        self._left, self.notes = units, []

    def start(self, *_):
        pass

    def note(self, message):
        self.notes.append(message)

    def advance(self):
        self._left -= 1
        if self._left == 0:
            raise InterruptionError


def test_an_interrupted_dense_run_goes_on_where_it_was(tmp_path):
    """Also with two forwards a step, two transformers, and float16 peaks of the steps before."""
    from diffusers import WanPipeline

    tiny = pipeline_of("wan")

    def experts():
        parts = tiny.build().components | {"transformer_2": tiny.tiny.build(5)}
        return WanPipeline(**parts, boundary_ratio=0.875)

    def made(pipe):
        return source(tiny, pipe, steps=8, transformer="transformer_2", guidance_scale=3.0)

    calls = {}
    straight = calibrate(made(experts()), SETTINGS, tmp_path / "straight")
    for run, progress in (("first", InterruptedAfter(5)), ("second", None)):
        pipe = experts()
        calls[run] = counted(pipe)
        if run == "first":
            with pytest.raises(InterruptionError):
                calibrate(made(pipe), SETTINGS, tmp_path / "plan", progress=progress)
            assert len(calls["first"]) == 2 * 5
            kept = tmp_path / "plan.work" / "run-prompt0"
            assert len(list(kept.iterdir())) == 2 * 5
            assert load_values(kept / "call9.pt")["peaks"]
        else:
            resumed = calibrate(made(pipe), SETTINGS, tmp_path / "plan")
    assert resumed.content_hash() == straight.content_hash()
    announced = count_forwards(CalibrationRun(made(experts()), SETTINGS), None).total
    assert len(calls["second"]) == announced - 2 * 5
    assert not (tmp_path / "plan.work").exists()


def test_a_damaged_call_of_an_unfinished_run_is_named(tmp_path):
    tiny = pipeline_of("wan")
    with pytest.raises(InterruptionError):
        calibrate(source(tiny), SETTINGS, tmp_path / "plan", progress=InterruptedAfter(2))
    (tmp_path / "plan.work" / "run-prompt0" / "call0.pt").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(ArgumentError, match=r"run-prompt0/call0\.pt"):
        calibrate(source(tiny), SETTINGS, tmp_path / "plan")


def test_two_transformers_are_planned_one_by_one(tmp_path):
    from diffusers import WanPipeline

    tiny = pipeline_of("wan")
    parts = tiny.build().components | {"transformer_2": tiny.tiny.build(5)}
    pipe = WanPipeline(**parts, boundary_ratio=0.875)
    with pytest.raises(ArgumentError, match="transformer_2"):
        source(tiny, pipe, steps=8)
    plans = {}
    for role in ("transformer", "transformer_2"):
        made = source(tiny, pipe, steps=8, transformer=role)
        plans[role] = calibrate(made, SETTINGS, tmp_path / role)
    boundary = pipe.config.boundary_ratio * 1000
    high, low = plans.values()
    assert min(high.bin_boundaries) > boundary > max(low.bin_boundaries)
    assert high.model != low.model
    for plan in plans.values():
        paro_trt.apply(pipe, plan)
    tiny.run(pipe)
    paro_trt.remove(pipe)


def test_calls_survive_a_file(tmp_path):
    arguments = {
        "hidden_states": torch.randn(1, 3, dtype=torch.bfloat16),
        "image_rotary_emb": (torch.ones(2), torch.zeros(2)),
        "attention_kwargs": {"scale": 1.0},
        "img_shapes": [[(1, 4, 4)]],
        "guidance": None,
        "return_dict": False,
    }
    RecordedCall(arguments, 750.0, 12).save(tmp_path / "call.pt")
    loaded = RecordedCall.load(tmp_path / "call.pt")
    assert (loaded.timestep, loaded.key_length) == (750.0, 12)
    assert torch.equal(loaded.arguments["hidden_states"], arguments["hidden_states"])
    assert torch.equal(loaded.arguments["image_rotary_emb"][1], torch.zeros(2))
    plain = ("attention_kwargs", "img_shapes", "guidance", "return_dict")
    assert all(loaded.arguments[name] == arguments[name] for name in plain)
    (tmp_path / "call.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ArgumentError, match=r"call\.pt"):
        RecordedCall.load(tmp_path / "call.pt")


def test_one_sample_is_the_last_of_the_batch():
    rotary = (torch.ones(2), torch.zeros(2))
    whole = {"x": torch.arange(4.0).view(2, 2), "shapes": ["a", "b"], "rotary": rotary, "n": 2}
    sample = one_sample(whole, 2)
    assert torch.equal(sample["x"], torch.tensor([[2.0, 3.0]]))
    assert (sample["shapes"], sample["n"], len(sample["rotary"])) == (["b"], 2, 2)
    with pytest.raises(ModelError, match="argument cache"):
        one_sample({"cache": object()}, 1)


def test_bad_requests_are_refused_before_anything_runs(tmp_path):
    tiny = pipeline_of("wan")
    pipe = tiny.build()
    computed = counted(pipe)
    with pytest.raises(ArgumentError, match="frames_per_day"):
        source(tiny, pipe, arguments={"frames_per_day": 3})
    with pytest.raises(ArgumentError, match="bins x captured_steps = 2, got 1"):
        calibrate(source(tiny, pipe, steps=1), SETTINGS, tmp_path / "plan")
    for prompts in ([], ["  "], tmp_path / "missing.txt"):
        with pytest.raises(ArgumentError, match="prompts"):
            paro_trt.calibrate(pipe, prompts, output=tmp_path / "plan")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name in ("empty.txt", "latin.txt"):
        with pytest.raises(ArgumentError, match=name):
            paro_trt.calibrate(pipe, tmp_path / name, output=tmp_path / "plan")
    assert computed == []
    assert not list(tmp_path.glob("plan*"))


def test_what_the_pipeline_would_change_is_said(tmp_path):
    """A size that it would round, and text that its encoder does not read."""
    tiny = pipeline_of("wan")
    made = source(tiny, texts=["word " * 40, "a cat"], height=130, width=120, num_frames=6)
    said = "\n".join(made.notes())
    assert "6 x 130 x 120 does not suit this model: 5 x 128 x 112 is made" in said
    assert "tokens, of which UMT5EncoderModel reads 12" in said
    assert len(made.notes()) == 3
    assert (made.geometry.grid.height, made.geometry.grid.width) == (8, 7)
    progress = InterruptedAfter(1)
    with pytest.raises(InterruptionError):
        calibrate(made, SETTINGS, tmp_path / "plan", progress=progress)
    assert progress.notes[1:4] == list(made.notes())


def test_a_value_that_the_pipeline_refuses_is_one_error():
    with pytest.raises(ArgumentError, match="WanPipeline: expected arguments that the pipeline"):
        source(pipeline_of("wan"), arguments={"callback_on_step_end_tensor_inputs": ["nothing"]})


def test_nan_in_the_latents_is_refused_and_the_work_is_kept(tmp_path):
    tiny = pipeline_of("wan")
    pipe = tiny.build()
    with torch.no_grad():
        next(iter(pipe.transformer.blocks[1].attn1.to_k.parameters())).fill_(float("nan"))
    with pytest.raises(ModelError, match="latents of the dense run at step"):
        calibrate(source(tiny, pipe), SETTINGS, tmp_path / "plan")
    assert not list(tmp_path.glob("plan.work/run-prompt*"))
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(("name", "ratio"), [("transformer_2", 1.0), ("transformer", 0.0)])
def test_one_of_two_transformers_serves_all_at_the_ends_of_the_schedule(name, ratio):
    """As diffusers runs it; a plan of it is for the model alone."""
    tiny = pipeline_of("wan-2.2-a14b")
    both = tiny.build()
    parts = {"transformer": None, "transformer_2": None} | {name: both.transformer}
    pipe = type(both)(**(both.components | parts), boundary_ratio=ratio)
    made = source(tiny, pipe, steps=4)
    assert made.served == range(4)
    assert made.loaded.expert is None
    assert set(made.record(0, 1, {0, 3}, lambda _step: None)) == {0, 3}
    pipe.register_to_config(boundary_ratio=0.5)
    with pytest.raises(ModelError, match=f"boundary_ratio: expected {ratio:g}"):
        source(tiny, pipe, steps=4)


def test_the_second_transformer_has_its_own_guidance():
    tiny = pipeline_of("wan-2.2-a14b")
    pipe = tiny.build()

    def last_latents(**guidance):
        made = source(tiny, pipe, transformer="transformer_2", guidance_scale=4.0, **guidance)
        last = made.served[-1]
        return made.record(0, 1, {last}, lambda _step: None)[last].arguments["hidden_states"]

    same = last_latents()
    assert torch.equal(last_latents(guidance_scale_2=4.0), same)
    assert not torch.equal(last_latents(guidance_scale_2=2.0), same)
