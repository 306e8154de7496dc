"""What the demo provider says: original prose, so that a stream without any account still reads like one."""

from __future__ import annotations

PARAGRAPHS: tuple[str, ...] = (
    (
        "A river does not hurry, and yet it is never late. It takes the shape of whatever holds it, and over the "
        "years it gives that shape back a little wider. Stand on the bank in early spring, when the snow has begun "
        "to let go of the hills, and you can hear the whole valley being carried past in small pieces: a leaf, a "
        "twig, a grain of sand, each in its own place in the line. Nobody directs the traffic. The slope is enough."
    ),
    (
        "The first bridge at the old mill was a felled oak, flattened on one side with an axe. People crossed it "
        "with their arms held out. When it rotted they built a second one of planks, and after the flood a third of "
        "stone, with two arches and a niche for a lamp. Each bridge was planned by someone who had been frightened "
        "on the one before. That is how most good engineering begins: a person remembers the moment when the boards "
        "gave way, and draws a thicker line."
    ),
    (
        "Think of a task as a guest and of a nursery as the house that invited it. The guest may wander from room "
        "to room, read in the garden, or fall asleep by the fire; what it may not do is stay after the house is "
        "locked. Before the owner turns the key, everyone is counted out. If one guest falls ill, the others are "
        "told and sent home, and the owner hears of it in person. It sounds strict. In practice it means that the "
        "lights are off when you think they are."
    ),
    (
        "Below the weir the water is loud, above it almost silent, and the difference is only a step of a metre or "
        "so. The keeper of the weir once explained that her work is mostly waiting. She opens the gate when the "
        "meadow can drink and closes it when the cellar in the village cannot. What she holds back today is not "
        "lost; it stands in the pool, with a heron beside it, until there is room further down. A good buffer, she "
        "said, is one that you can see the end of."
    ),
    (
        "Cancelling is a kind of courtesy. When a friend sends word that he will not come to dinner, you stop "
        "peeling potatoes; you do not cook the meal in secret and bury it behind the shed. Programs are less "
        "polite. Someone closes a window, and far away a machine goes on composing sentences that nobody will read, "
        "and somebody pays for each of them. The cure is old and simple: let the news of leaving travel as fast as "
        "the order did, along the same road."
    ),
    (
        "On the long suspension bridge at the mouth of the estuary there is a man whose job is to listen. He walks "
        "the deck at night with a small hammer and taps the hangers one after another, and each answers with a "
        "note. He does not know the names of the notes, but he knows at once when one of them is new. In the "
        "morning he writes a single line in a book with a green cover. There are ninety-one such books, and the "
        "bridge is still there, which is the point of them."
    ),
    (
        "Two streams meet below the chapel, one brown from the fields and one clear from the rocks. For half a mile "
        "they run side by side in the same bed without mixing, and you can follow the seam between them with your "
        "finger. Then comes a bend, and after the bend there is just one river. Children throw in a stick on either "
        "side and argue about which arrives first. It depends on the stick, on the wind, and on who is telling the "
        "story afterwards over supper."
    ),
    (
        "The ferryman had a rule that puzzled strangers: he would not leave until he had said aloud how many were "
        "on board, and he would not tie up on the far side until he had said the number again. Once, in fog, the "
        "two numbers were not the same, and he turned the boat round without a word and found the missing boy "
        "asleep on the jetty. Ask him why he counts, and he will tell you that a crossing has two ends, and that a "
        "person who is only sure of one is not across."
    ),
)
