"""A clerk's letters: long sentences that come to nothing."""

TEXT = """\
Sir, I have the honour to acknowledge receipt of your letter of the third instant, in which you were
so good as to enquire after the state of the accounts entrusted to this office; and I regret to
inform you that the said accounts, having been forwarded to the Department in the spring of the
preceding year, have not hitherto been returned.

I beg leave to assure you, however, that no effort has been spared to obtain them, and that a
further application, the fourth of its kind, was made on Thursday last by the undersigned in person.

With regard to the second matter upon which you have been pleased to touch, namely the condition of
the roof, it is my duty to observe that the repairs, which were authorised by the Committee subject
to the consent of the Board, and by the Board subject to the approval of the Committee, remain for
that reason in abeyance; and that, in the meantime, vessels have been placed beneath those portions
of the ceiling which appeared to require them.

I have the honour to remain, Sir, your most obedient servant.

Madam, It is with sincere regret that I find myself under the necessity of returning to you the
enclosed application, inasmuch as the form upon which it was submitted, although in every other
respect correctly completed, was superseded on the first of the month by another, from which it
differs in the colour of the paper.

Should you desire to proceed, I would respectfully suggest that the new form be obtained from the
office on the second floor, which is open on alternate Wednesdays, with the exception of those that
fall within the period set aside for the printing of forms.

I need hardly add that the sympathy which I entertain for your situation, as a private person, is
entirely without prejudice to the foregoing.

I have the honour to be, Madam, your humble servant.

Gentlemen, In accordance with the resolution which was adopted, upon a division, at the meeting of
the eleventh, I have caused enquiries to be made concerning the whereabouts of the minutes of the
meeting of the fourth; and I am now in a position to state that they were, to all appearance, never
taken, the gentleman to whom that office had been entrusted having been detained elsewhere by a
circumstance upon which it would be unbecoming to enlarge.

It is accordingly proposed that the resolutions of the fourth be considered as having been adopted,
in so far as they are remembered by those who were present, and as having been deferred, in so far
as they are not; a course which, I venture to submit, is not without precedent in the practice of
this institution.

I avail myself of this opportunity to renew to you, Gentlemen, the assurance of my highest consideration.

Sir, I am directed to refer to your letter of the ninth, and to that of the tenth which withdrew it,
and to the further communication, bearing no date, by which the latter was itself withdrawn; and to
request that you will be so kind as to state, at your earliest convenience, which of these is to be
regarded as expressing your intentions.

I have the honour to remain, Sir, your most obedient servant.
"""
