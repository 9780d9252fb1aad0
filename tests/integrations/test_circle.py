"""A checkpoint through the frameworks in turn; with FastReID in fastreid/test_fastreid_circle.py."""


def test_a_checkpoint_passes_through_hugging_face_our_engine_and_torchreid(circle, tmp_path):
    weights = circle.start
    for station in (circle.hugging_face, circle.our_engine, circle.torchreid):
        folder = tmp_path / station.__name__
        folder.mkdir()
        weights = station(weights, folder)
    with_no_texts = circle.our_model(weights)  # torchreid saves the image branch only
    assert any(name.startswith("text_encoder.") for name in with_no_texts.load_report.missing)
    circle.check(circle.embed(with_no_texts).images)
