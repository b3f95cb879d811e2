"""A ship's log: short, numbers, few verbs."""

TEXT = """\
Mon 4. Wind SW 3, sea slight. Left harbour 06:10. Crew of five, all well. Course 240.
Noon: 48 miles run. Bar. 1019, steady. One sail to port, no answer to our signal.
20:00. Wind S 2. Lights trimmed. Watch: Oda, then Brandt.

Tue 5. Wind W 4, sea moderate. Reefed main 03:40. Pump 10 min, bilge dry.
Noon: 131 miles. Bar. 1014, falling. Birds low over the water, going east.
16:00. Squall, 15 min. Jib torn at the clew. Oda sewed it, good work.
22:00. Wind W 5. Two reefs. Hove to till light. Watch: Brandt, then Ilse.

Wed 6. Wind NW 6, sea rough. No cooking. Bread and cold tea.
Noon: 74 miles. Bar. 1003. Lashed the boat twice. Pump 40 min, some water aft.
18:00. Gust of 8. Lost one bucket, one hat. Nobody hurt.
23:00. Wind NW 7. Bare pole. Two men on watch. Stars seen for a minute.

Thu 7. Wind N 5, backing. Sea rough, then less. Made sail 05:20.
Noon: 96 miles. Bar. 1009, rising. Sun seen. Fix: 60 miles south of plan. Course 255.
15:00. Hot soup, first in two days. Clothes in the rigging to dry.
21:00. Wind N 3. All reefs out. Watch: Ilse, then Oda.

Fri 8. Wind N 2, sea slight. Painted the hatch. Mended the log line.
Noon: 88 miles. Bar. 1016. Whale to starboard, 200 m, went with us half an hour.
19:00. Calm. Drift west, half a knot. Lamp oil: 9 litres. Water: 160 litres.
Watch: Brandt alone.

Sat 9. Calm till 08:00, then wind E 2. Set the big sail.
Noon: 41 miles. Bar. 1021. Fish: six, all small. Cook pleased.
17:00. Wind E 3. Two ships, both outward. Showed our number; the second answered.
22:00. Moon. Sea flat. Watch: Oda, then Ilse.

Sun 10. Wind E 4, sea slight. Holiday. No work but the helm.
Noon: 139 miles, best so far. Bar. 1020, steady. Course 250.
16:00. Read aloud, one hour. Brandt played, badly.
21:00. Wind E 4. Nothing to report. Watch: Ilse, then Brandt.

Mon 11. Wind SE 3. Land birds at first light. Lead: no bottom at 90.
Noon: 122 miles. Bar. 1017. Haze ahead. Two men aloft.
14:25. Land, fine on the starboard bow. Low, brown, one tower.
18:00. Anchored in 9 fathoms, sand. All well. Water: 110 litres. End of passage: 8 days, 739 miles.

Tue 12. At anchor. Wind S 2. Boat ashore 07:00 with Oda and Ilse, casks and letters.
Noon: Bar. 1018. Four casks filled, good water. Bought eggs, limes, one goat.
16:00. Goat loose on deck. Goat caught. Brandt bitten, lightly.
20:00. Lights of a fleet to the north. Anchor watch: Brandt.

Wed 13. Wind SW 4, sea moderate. Weighed 05:50. Course 190. Goat below.
Noon: 52 miles. Bar. 1012, falling. Reefed main before dinner.
19:00. Rain, heavy, one hour. Caught 70 litres. Watch: Oda, then Ilse.
"""
