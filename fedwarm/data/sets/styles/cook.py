"""A cook's instructions: imperatives, repetition, kindness."""

TEXT = """\
First, warm the bowl. Then, and only then, crack the eggs into it, one after the other, and stir
them gently, gently, until the yellow is one with the white. Do not hurry. An egg that is hurried is
an egg that is sorry.

Now take the flour, about as much as two hands will hold, and let it fall through the sieve like
snow on a roof. Stir again. If the dough is dry, add a little milk; if it is wet, add a little
flour; if it is neither, leave it alone and be glad.

Next, the onions. Peel them, halve them, lay the flat side down, and cut them thin, thinner, as thin
as you can without losing a finger. Melt the butter slowly. When it sings, the onions go in. When
they turn soft and gold, and smell of Sunday, take the pan from the fire and let it rest.

For the soup, begin the evening before. Put the beans into cold water, cover them with a plate, and
forget them until morning. Then pour the water away, add fresh water, a leaf of bay, a carrot, and a
bone if there is one, and let it all simmer, never boil, for as long as it takes to write a letter
to a good friend.

Salt comes last. Remember this, if you remember nothing else: salt comes last, and pepper later
still. Taste, wait, taste again, and ask someone who is hungry.

For the bread, you need flour, water, salt, and patience, and of these the last is the hardest to
buy. Mix them, cover them, and go away. When you come back, the dough has grown; fold it over
itself, twice, as you would fold a shirt, and go away again. Heat the oven until it frightens you.
Bake the loaf until it sounds hollow when you knock at its door.

Then the plums. Wash them, stone them, and lay them close together on the dough, like tiles, with
the cut side up. Sugar them, but not too much, for a plum should be allowed to be a plum. Bake them
until the juice runs over, and the whole street knows what you are doing.

If the sauce is thin, let it cook a little longer. If it is thick, add a spoon of broth. If it has
burnt, say that it was meant to taste of smoke, pour it into another pan without scraping the
bottom, and stir in a little cream, gently, gently, as if nothing had happened.

Now set the table. Warm the plates, cut the bread, open the window for a minute and close it again.
Call them once, and call them twice, and when they sit, and the spoons are still, bring the soup,
and let nobody speak of work until the bowl is empty.

At the end, wash the pan while it is warm, and never with soap, but with salt and a cloth, and hang
it up where you can see it. Tomorrow, first, warm the bowl.
"""
