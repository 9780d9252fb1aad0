"""The API of `t2ireid serve`, what it refuses, and who may ask."""

import io
import re
import shutil
import threading

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from t2ireid_plugin.search import Gallery
from t2ireid_plugin.search.serve import app as module
from t2ireid_plugin.search.serve.app import ServedIndex, create_app
from t2ireid_plugin.search.transfer import copy_rows

from .conftest import COLOURS, ColourEncoder, paint

TOKEN = "a-token-of-sixteen-letters"


def names(answer):
    assert answer.status_code == 200, answer.text
    return [hit["path"].split("/")[-1] for hit in answer.json()["hits"]]


def search(client, **query):
    return client.get("/api/search", params=query)


def test_hits_are_those_of_the_gallery(client, index):
    answer = search(client, q="red", minus="blue", per="file", k=4)
    with Gallery.open(index, ColourEncoder()) as gallery:
        expected = gallery.search("red", 4, minus="blue", per="file")
        paths = [gallery.stored_path(hit.path) for hit in expected]
    results = answer.json()
    assert (results["searched"], results["total"], results["more"]) == (6, 6, True)
    assert [hit["id"] for hit in results["hits"]] == [hit.id for hit in expected]
    assert [hit["score"] for hit in results["hits"]] == pytest.approx([hit.score for hit in expected])
    assert [hit["path"] for hit in results["hits"]] == paths == [path for path in paths if not path.startswith("/")]
    film = next(hit for hit in results["hits"] if hit["path"] == "film.mp4")
    assert (film["camera"], film["track"], film["frame"], film["box"]) == ("a", 0, 7, [1, 2, 3, 4])
    assert film["time"] == "2001-09-09T01:46:40Z"


def test_pages_follow_one_another(client):
    whole = names(search(client, q="red"))
    pages = [search(client, q="red", k=4, offset=offset) for offset in (0, 4, 8)]
    assert [name for page in pages for name in names(page)] == whole
    assert [page.json()["more"] for page in pages] == [True, False, False]


def test_filters_leave_the_rows_that_match(client):
    assert set(names(search(client, q="red", camera="b"))) == {"green.png", "blue.png"}
    assert len(names(search(client, q="red", camera=["a", "b"]))) == 5
    span = {"after": "2026-11-01T01:00:00Z", "before": "2026-11-01T03:00:00.000Z"}
    answer = search(client, q="red", **span)
    assert names(answer) == ["orange.png", "green.png"]
    assert answer.json()["searched"] == 2
    nothing = search(client, q="red", after="2099-01-01")
    assert (names(nothing), nothing.json()["searched"], nothing.json()["total"]) == ([], 0, 6)
    assert names(search(client, q="red", min_score=0.95)) == ["red.png", "film.mp4"]


def test_a_photo_and_a_row_are_queries_too(client, tmp_path):
    photo = paint(tmp_path / "query.png", COLOURS["green"]).read_bytes()
    assert names(client.post("/api/search", content=photo))[0] == "green.png"
    both = client.post("/api/search", params={"q": "blue blue", "camera": "b"}, content=photo)
    assert names(both) == ["blue.png", "green.png"]
    first, *_ = search(client, q="blue", k=1, camera="b").json()["hits"]
    like = search(client, like=first["id"])
    assert set(names(like)[:2]) == {"blue.png", "pair.png"}
    assert like.json()["hits"][0]["score"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "q: the sentence is empty; describe a person, or give a photo"),
        ({"q": "  ", "minus": "red"}, "q: the sentence is empty"),
        ({"q": "red", "camera": "c"}, "no camera 'c' in the index; it has a, b"),
        ({"q": "red", "after": "monday"}, "time: 'monday' is not a date such as 2026-11-01T08:00:00+01:00"),
        ({"q": "red", "weight": 2}, "weight: Input should be less than or equal to 1"),
        ({"q": "red", "weight": "nan"}, "weight: "),
        ({"q": "red", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"q": "red", "offset": 10**9}, "offset: "),
        ({"q": "red", "per": "day"}, "per: Input should be 'photo', 'track' or 'file'"),
        ({"q": "red", "kamera": "a"}, "kamera: Extra inputs are not permitted"),
        ({"q": "red " * 1000}, "q: String should have at most 2000 characters"),
        ({"like": 2**70}, "like: "),
    ],
)
def test_a_wrong_query_gets_one_line(client, query, message):
    answer = search(client, **query)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(message)
    assert "\n" not in answer.json()["detail"]


def test_wrong_photos_get_one_line(client, monkeypatch):
    answer = client.post("/api/search", content=b"not a photo")
    assert (answer.status_code, answer.json()["detail"][:35]) == (422, "unreadable image 'of this request':")
    assert client.post("/api/search").status_code == 413
    monkeypatch.setattr(module, "_MAX_UPLOAD", 5)
    assert client.post("/api/search", content=b"123456").json() == {"detail": "photo: give 1 to 5 bytes"}
    assert search(client, like=77).status_code == 404


def picture(answer):
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text
    return Image.open(io.BytesIO(answer.content))


def test_pictures_show_the_person_of_a_row_without_metadata(client, index, tmp_path):
    hits = {hit["path"].split("/")[-1]: hit["image"] for hit in search(client, q="red").json()["hits"]}
    person = picture(client.get(f"/{hits['pair.png']}"))
    assert person.size == (20, 40)
    np.testing.assert_allclose(np.asarray(person).mean(axis=(0, 1)), COLOURS["blue"], atol=3)
    assert b"secret" in (tmp_path / "photos" / "pair.png").read_bytes()
    assert b"secret" not in client.get(f"/{hits['pair.png']}").content
    assert client.get(f"/{hits['film.mp4']}").content == (tmp_path / "crop.jpg").read_bytes()
    paint(tmp_path / "photos" / "red.png", COLOURS["red"], size=(1000, 2000))
    assert picture(client.get(f"/{hits['red.png']}")).size == (360, 720)
    (tmp_path / "photos" / "red.png").unlink()
    gone = client.get(f"/{hits['red.png']}")
    assert (gone.status_code, "--root" in gone.text, str(tmp_path) in gone.text) == (404, True, False)


@pytest.mark.parametrize(
    "address",
    [
        *("/image/99", "/image/-1", "/image/red.png", "/image/99999999999999999999", "/image/1.5", "/image/"),
        *("/image/../../etc/passwd", "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/image//etc/passwd", "/..%2fapp.py"),
        *("/%2e%2e/app.py", "//etc/passwd", "/app.py", "/photos/red.png", "/people.idx/rows.sqlite", "/docs", "/redoc"),
    ],
)
def test_nothing_but_rows_can_be_asked_for(client, address):
    answer = client.get(address)
    assert answer.status_code in (404, 422)
    assert not re.search("import|root:|SQLite format", answer.text)


def test_without_the_token_nothing_is_answered(index):
    app = create_app(ServedIndex(index, ColourEncoder()), TOKEN)
    with TestClient(app, base_url="http://server.example:8000", follow_redirects=False) as client:
        for address in (
            "/",
            "/page.js",
            "/api/index",
            "/api/search?q=red",
            "/image/0",
            "/api/openapi.json",
            "/?token=x",
        ):
            assert client.get(address).status_code == 401, address
        assert client.post("/api/search?q=red", content=b"x").status_code == 401
        wrong = [f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ", "", "Bearer ü"]
        for header in wrong:
            assert client.get("/api/index", headers={"Authorization": header.encode()}).status_code == 401
        assert client.get(f"/api/index?token={TOKEN}").status_code == 401  # addresses are kept in histories and logs
        assert client.get("/api/index", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        entered = client.get(f"/?q=red+hat&token={TOKEN}")
        assert (entered.status_code, entered.headers["location"]) == (303, ".?q=red+hat")
        assert re.search("HttpOnly.*SameSite=lax", entered.headers["set-cookie"], re.IGNORECASE)
        assert client.get("/").status_code == client.get("/image/0").status_code == 200  # by the cookie


def test_other_host_names_are_refused(client):
    """As of a page of the web whose own name has been resolved to this machine."""
    assert client.get("/api/index", headers={"Host": "localhost:9000"}).status_code == 200
    assert client.get("/api/index", headers={"Host": "evil.example"}).status_code == 400


def test_the_page_loads_nothing_from_elsewhere_and_browsers_keep_nothing(client):
    for address in ("/", "/page.css", "/page.js"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert not re.search(r"(https?:)?//\w|@import|url\(", answer.text), address
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_the_schema_describes_the_api(client):
    schema = client.get("/api/openapi.json").json()
    assert set(schema["paths"]) == {"/api/index", "/api/search", "/image/{row}"}
    get = schema["paths"]["/api/search"]["get"]
    assert {one["name"] for one in get["parameters"]} == set(module.SearchQuery.model_fields)
    assert get["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Results"}
    assert get["responses"]["422"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert client.get("/api/index").json() == {"rows": 6, "cameras": ["a", "b"], "weight": None}


def test_every_answer_is_of_one_commit_while_another_writes(client, index):
    """Each commit adds a red and a blue row, so a reader that saw half of one would count an odd number."""
    vectors = ColourEncoder().encode_images([np.full((1, 1, 3), COLOURS[name]) for name in ("red", "blue")])
    stop, problems = threading.Event(), []

    def ask():
        while not stop.is_set():
            answer = search(client, q="red", k=3)
            if answer.status_code != 200 or answer.json()["total"] % 2 or answer.json()["hits"][0]["score"] < 0.9:
                problems.append(answer.text)

    readers = [threading.Thread(target=ask) for _ in range(4)]
    for reader in readers:
        reader.start()
    with Gallery.open(index, ColourEncoder()) as writer:
        for number in range(20):
            writer.add_embeddings(vectors, [f"new/{number}.png"] * 2)
        stop.set()
        for reader in readers:
            reader.join()
        assert problems == []
        assert search(client, q="red").json()["total"] == 46
        writer.delete(path="new")
        writer.purge()
    assert search(client, q="red").json()["total"] == 6


def test_an_index_that_replaces_another_is_served(client, index, tmp_path):
    shutil.rmtree(index)
    answer = search(client, q="red")
    assert (answer.status_code, "no index" in answer.json()["detail"]) == (422, True)
    with Gallery.open(index, ColourEncoder(), root=tmp_path) as gallery:
        gallery.add_images(tmp_path / "photos" / "blue.png", camera="c", progress=False)
    assert names(search(client, q="red", camera="c")) == ["blue.png"]
    assert client.get("/api/index").json()["rows"] == 1


def test_an_index_on_milvus_is_served(index, milvus_server):
    address = f"{milvus_server}/served"
    with Gallery.open(index) as gallery, Gallery.open(address, ColourEncoder(), root=gallery.store.root) as cluster:
        copy_rows(gallery.store, cluster.store)
    answers = []
    for where in (index, address):
        app = create_app(ServedIndex(where, ColourEncoder()))
        with TestClient(app, base_url="http://127.0.0.1") as client:
            answer = search(client, q="red", k=2, camera="a")
            like = search(client, like=answer.json()["hits"][0]["id"], k=9)
            pictures = [client.get(hit["image"]).content for hit in answer.json()["hits"]]
            answers.append((names(answer), names(like), pictures, client.get("/api/about").json()))
    assert answers[0] == answers[1]
