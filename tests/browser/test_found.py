"""Found Places' button: what was found goes into the Regions node."""

import json

FOUND = {
    "version": 1,
    "width": 128,
    "height": 64,
    "regions": [
        {
            "id": "found-1",
            "name": "mara",
            "concept": "mara",
            "shape": {"type": "polygon", "points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},
        }
    ],
}
PRESS = """(found) => {
    const graph = window.app.graph;
    graph.clear();
    const add = type => { const node = window.LiteGraph.createNode(type); graph.add(node); return node };
    const places = add('MixOfShowFound'), regions = add('MixOfShowRegions');
    const button = places.widgets.find(widget => widget.type === 'button');
    const text = () => regions.widgets.find(widget => widget.name === 'editor').value;
    button.callback();
    const before = JSON.parse(text()).regions.length;
    places.onExecuted({mixofshow_found: [found]});
    button.callback();
    return [before, text(), places.serialize().widgets_values ?? []];
}"""


def test_what_was_found_is_adopted_at_the_press_of_a_button(mouse):
    before, text, kept = mouse.run_js(PRESS, json.dumps(FOUND))
    (region,) = json.loads(text)["regions"]
    assert before == 0, "nothing was found yet"
    assert (region["name"], region["concept"], region["shape"]["type"]) == ("mara", "mara", "polygon")
    assert kept == [0], "the button is no value"
    assert not mouse.problems, mouse.problems
