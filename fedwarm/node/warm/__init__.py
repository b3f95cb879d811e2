"""Messages answered by processes that are forked from one which has torch and Flower loaded already. All files are run by path.

Flower starts `flwr-clientapp` for every message. Here that is `stub`, a small process that stands where Flower expects it, hands
its command line, environment and open files to a `template`, and ends as the process does that the template forks for it
(`child`). One template serves all nodes of a federation on a machine, starts with the first message and ends when there are none
for a while. Where none can be had, the message is answered as without one. None of these files imports fedwarm, so that an app
which brings its own copy of fedwarm gets that one.
"""
