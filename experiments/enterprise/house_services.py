"""What the house does for services (catalogue) and what it knows about them (articles), by kind of service."""

from lexicon import ACCESS, ALLOWANCE, DEED, GEAR, Treatment

OFFERS: dict[str, tuple[Treatment, ...]] = {
    GEAR: (
        Treatment(
            "issue", "Issue: {name}", "First unit from stock. Asks for delivery site and cost object.", "need",
            ("I don't have {a} yet and could use one", "can I get {a}?", "we have a new colleague and there is no {s}",
             "please send me {a} of my own"),
        ),
        Treatment(
            "swap", "Swap: {name}", "Exchange of a worn-out unit like for like. Asks for the asset tag.", "replace",
            ("my {s} is on its last legs, I want another one", "the {s} is ancient and should be replaced",
             "time to trade in my old {s}", "nobody can fix my {s} any more, what do I do"),
        ),
        Treatment(
            "mend", "Mend: {name}", "Intervention by a technician, on site or in the shop.", "repair",
            ("somebody has to repair the {s}", "the {s} is cracked, can it be mended", "my {s} broke, please fix it",
             "I dropped the {s} and now it rattles"),
        ),
        Treatment(
            "loan", "Loan: {name}", "Unit for up to 14 days, to be given back.", "borrow",
            ("I need {a} just for next week", "can I borrow {a}", "is there a spare {s} for a few days",
             "lend me {a} for the fair"),
        ),
        Treatment(
            "handin", "Hand-in: {name}", "Collection of a unit that is no longer needed.", "return",
            ("where do I give back the {s}", "I don't use my {s} any more, pick it up please",
             "I am leaving and still have the {s}", "take the {s} off my hands"),
        ),
        Treatment(
            "uplift", "Uplift: {name}", "Exchange for the next higher model class.", "better",
            ("my {s} is fine but too small for what I do", "I want a better {s} than the one I have",
             "can I have the bigger {s}", "the basic {s} doesn't cut it in my job"),
        ),
        Treatment(
            "move", "Move: {name}", "Transport and set-up at another place.", "relocate",
            ("we change floors and the {s} has to come along", "please carry the {s} to our new room",
             "get the {s} from building A to B", "the {s} should stand somewhere else"),
        ),
    ),
    ACCESS: (
        Treatment(
            "grant", "Grant: {name}", "Adds an identity after the owner's verdict.", "new account",
            ("I can't get into {x} because I never had an account", "please let me into {x}",
             "my new teammate needs {x}", "how do I join {x}"),
        ),
        Treatment(
            "strip", "Strip: {name}", "Takes an identity off.", "remove account",
            ("someone who left us can still get into {x}", "take my rights on {x} away",
             "an intern should no longer be in {x}", "kick a contractor out of {x}"),
        ),
        Treatment(
            "role", "Change role: {name}", "Other profile for an existing identity.", "more rights",
            ("I can only look at {x}, I also have to write", "I got promoted and need more power in {x}",
             "make me an editor in {x}", "read-only in {x} is not enough for me"),
        ),
        Treatment(
            "free", "Release lock: {name}", "Lifts a block after too many attempts; new secret by text message.",
            "unlock",
            ("I'm locked out of {x} again", "forgot my password for {x}", "too many wrong tries, {x} shut me out",
             "{x} has blocked me and I can't remember the code"),
        ),
        Treatment(
            "prolong", "Prolong: {name}", "New end date for a temporary identity.", "extend",
            ("my access to {x} ends on Friday, I need longer", "the consultant stays on and must keep {x}",
             "{x} is about to expire for me", "keep me in {x} for another quarter"),
        ),
        Treatment(
            "robot", "Machine identity: {name}", "Technical principal with a key, not for persons.", "bot user",
            ("our script has to get into {x} on its own", "I need a login to {x} for a bot",
             "a nightly job should talk to {x}", "which user may my integration take for {x}"),
        ),
        Treatment(
            "roster", "Roster: {name}", "List of identities and profiles, by mail.", "who has",
            ("I want to know who all can get into {x}", "send me the people with rights on {x}",
             "auditors ask who uses {x}", "is my whole team in {x}, I'd like a list"),
        ),
    ),
    ALLOWANCE: (
        Treatment(
            "apply", "Apply: {name}", "First grant; goes to the line manager.", "apply",
            ("I'd like to have {x}", "how can I get {x}", "please sign me up for {x}", "am I able to ask for {x} here"),
        ),
        Treatment(
            "cancel", "Give up: {name}", "Ends the grant and returns what is left.", "cancel",
            ("plans changed, I don't need {x} after all", "please stop {x}", "I want to take back my wish for {x}",
             "forget about {x}, somebody else pays"),
        ),
        Treatment(
            "shift", "Shift: {name}", "Other dates, same extent.", "other date",
            ("{x} has to be two weeks later than planned", "different dates for {x} please",
             "can I postpone {x}", "I must bring {x} forward to May"),
        ),
        Treatment(
            "stretch", "Stretch: {name}", "Larger extent than first granted.", "more",
            ("{x} isn't enough, I need more of it", "what I got as {x} is used up already",
             "please top up {x}", "can {x} be made to last longer"),
        ),
        Treatment(
            "appeal", "Second look: {name}", "Review of a refusal by another person.", "appeal",
            ("they said no to {x} and I disagree", "my boss refused {x}, whom can I turn to",
             "it is unfair that I don't get {x}", "please reconsider the rejection of {x}"),
        ),
        Treatment(
            "quote", "Estimate: {name}", "Non-binding figure before a decision.", "calculate",
            ("before I decide, what would {x} come to", "roughly how much would {x} mean for me",
             "could somebody work out {x} for my case", "give me a ballpark for {x}"),
        ),
    ),
    DEED: (
        Treatment(
            "obtain", "Obtain: {name}", "Prepared within five days.", "order",
            ("I need {a}", "please make out {a} for us", "could you get me {a}", "how do I come by {a}"),
        ),
        Treatment(
            "amend", "Amend: {name}", "Corrected reissue without charge.", "wrong details",
            ("there is a typo in my {s}", "the {s} says the wrong thing", "my name is misspelt on the {s}",
             "something in the {s} isn't true any more"),
        ),
        Treatment(
            "renew", "Renew: {name}", "Follow-up with a new term.", "renew",
            ("our {s} runs out next month", "the {s} has expired", "last year's {s} is no longer good",
             "we need the {s} for one more year"),
        ),
        Treatment(
            "rush", "Rush: {name}", "Preparation within one day, against a fee.", "express",
            ("I must have {a} by tomorrow", "can't wait the usual week for {a}",
             "{a} is needed today, it is a matter of hours",
             "any way to speed up my {s}"),
        ),
        Treatment(
            "tongue", "Other language: {name}", "Sworn rendering by an external bureau.", "translation",
            ("they don't read English, I need the {s} in Spanish", "can I have the {s} translated",
             "the office abroad wants the {s} in its own language", "a German version of the {s} please"),
        ),
        Treatment(
            "certify", "Certify: {name}", "Stamped by a notary.", "official stamp",
            ("the authority only takes the {s} with a stamp", "I need a notarised {s}",
             "make the {s} official", "they doubt that the {s} is genuine"),
        ),
        Treatment(
            "revoke", "Take back: {name}", "Declares an earlier one void.", "withdraw",
            ("the {s} must not be used any more", "please withdraw the {s} we sent out",
             "pull back the {s}, it was a mistake", "we issued {a} by error"),
        ),
    ),
}  # fmt: skip

TOPICS: dict[str, tuple[Treatment, ...]] = {
    GEAR: (
        Treatment(
            "dead", "{name}: no sign of life", "Check the supply, wait thirty seconds, start again; else ticket.",
            "won't turn on",
            ("my {s} doesn't turn on", "the {s} stays dark whatever I press", "nothing happens with my {s}",
             "{s} completely dead this morning"),
        ),
        Treatment(
            "noise", "{name}: unusual sound or smell", "Disconnect at once, do not open the housing.", "noise",
            ("the {s} hums like a jet", "something smells burnt near the {s}", "my {s} makes a weird rattle",
             "odd crackling from the {s}"),
        ),
        Treatment(
            "adjust", "{name}: personal preferences", "Profiles are kept per person and restored on sign-on.",
            "settings",
            ("how can I set up the {s} the way I like it", "the {s} is not adjusted to me",
             "where do I change the settings of the {s}", "{s} forgets how I had it"),
        ),
        Treatment(
            "abroad", "{name}: use in other countries",
            "Customs form needed outside the union; insurance covers 60 days.",
            "travel",
            ("may I take the {s} to Brazil", "going on a trip overseas with the {s}, anything to mind",
             "crossing the border with {a}", "is the {s} insured when I work from Spain"),
        ),
        Treatment(
            "private", "{name}: non-business use", "Tolerated to a small extent; family members excluded.", "private",
            ("can my kids use the {s}", "is it okay to use the {s} on weekends for myself",
             "am I allowed to use the {s} for personal stuff", "what if my partner borrows the {s} at home"),
        ),
        Treatment(
            "theft", "{name}: loss procedure", "Report within two hours; police file number required.", "stolen",
            ("somebody stole the {s}", "I left the {s} on a train", "can't find my {s} anywhere",
             "{s} gone from my car"),
        ),
        Treatment(
            "clean", "{name}: hygiene", "Isopropyl only, never spray directly.", "dirty",
            ("I spilled coffee over the {s}", "what may I wipe the {s} with", "the {s} is filthy",
             "{s} is sticky and gross"),
        ),
    ),
    ACCESS: (
        Treatment(
            "denied", "{name}: authentication failure", "Code AX-102. Clear stored secrets, sign on again.",
            "can't log in",
            ("{x} doesn't take my password", "can't log on to {x} since the weekend",
             "{x} says my credentials are wrong", "login to {x} fails though I'm sure about the code"),
        ),
        Treatment(
            "loop", "{name}: repeated second factor", "Clock drift. Synchronise the time of the token.", "code loop",
            ("{x} asks me for the code over and over", "I confirm on my phone and {x} just asks again",
             "endless verification with {x}", "the six digits never satisfy {x}"),
        ),
        Treatment(
            "hidden", "{name}: missing entries", "Profile not yet propagated; up to four hours.", "menu empty",
            ("half of the menu in {x} is gone", "I see nothing in {x} although I was added",
             "{x} is empty for me, colleagues see everything", "buttons vanished from {x}"),
        ),
        Treatment(
            "drops", "{name}: sessions end early", "Idle limit of ten minutes; renew the lease.", "disconnects",
            ("{x} keeps throwing me out", "every few minutes I fall out of {x}", "{x} forgets me after a short break",
             "I never last a quarter of an hour in {x}"),
        ),
        Treatment(
            "slow", "{name}: degraded response", "Choose the nearest gateway; avoid the 9 o'clock peak.", "slow",
            ("{x} takes forever to load", "{x} crawls today", "I could make tea while {x} thinks",
             "{x} is like wading through mud"),
        ),
        Treatment(
            "first", "{name}: initial enrolment", "Invitation link, then device registration.", "getting started",
            ("first time using {x}, where do I begin", "I was just added to {x}, what now",
             "step by step start with {x} for a newbie", "how do I set up {x} from scratch"),
        ),
        Treatment(
            "sharing", "{name}: several persons, one identity", "Not permitted; exceptions by the risk board.",
            "shared login",
            ("may two of us use one account for {x}", "can I give a colleague my password to {x}",
             "my assistant logs on to {x} as me, is that allowed", "one login to {x} for the whole desk?"),
        ),
    ),
    ALLOWANCE: (
        Treatment(
            "who", "{name}: eligibility", "After six months of service; part-time pro rata.", "who gets",
            ("am I entitled to {x} as a part-timer", "do interns get {x}", "who is allowed to have {x}",
             "not sure I qualify for {x}"),
        ),
        Treatment(
            "balance", "{name}: remaining balance", "Shown on the personal page, refreshed nightly.", "how much left",
            ("how much is left of {x}", "where do I see what I've used of {x}", "the figure for {x} looks wrong",
             "I lost count of {x}"),
        ),
        Treatment(
            "late", "{name}: delayed grant", "Cut-off is the tenth; later entries slip a month.", "not received",
            ("I was promised {x} weeks ago and nothing came", "still waiting for {x}", "{x} was agreed but isn't there",
             "why does {x} take so long"),
        ),
        Treatment(
            "carry", "{name}: year end", "Unused parts lapse on 31 March.", "carry over",
            ("can I keep {x} for next year", "what happens to {x} in January", "will I lose {x} if I don't use it",
             "December is near and I haven't touched {x}"),
        ),
        Treatment(
            "proof", "{name}: evidence required", "Upload originals; photographs accepted below 50.", "documents",
            ("what papers do I have to hand in for {x}", "do you need receipts for {x}",
             "is a photo enough as proof for {x}", "they want evidence before {x}, of what?"),
        ),
        Treatment(
            "taxes", "{name}: fiscal treatment", "Benefit in kind above 50 a month.", "tax",
            ("do I pay tax on {x}", "will {x} lower my net pay", "does {x} count as income",
             "is the state taking a bite out of {x}"),
        ),
    ),
    DEED: (
        Treatment(
            "missing", "{name}: not delivered", "Look in the safe box; resend after three days.", "not arrived",
            ("I ordered {a} and never got it", "where is my {s}", "still no {s} in my inbox",
             "the {s} got lost on its way"),
        ),
        Treatment(
            "signs", "{name}: signatories", "Two of the list, one of grade 8 or above.", "signature",
            ("who has to sign the {s}", "whose name goes under {a}", "can my manager sign the {s} alone",
             "is one autograph enough on the {s}"),
        ),
        Treatment(
            "term", "{name}: period of validity", "Twelve months unless stated otherwise.", "how long valid",
            ("how long is {a} good for", "does the {s} ever expire", "is a two-year-old {s} still accepted",
             "shelf life of {a}"),
        ),
        Treatment(
            "format", "{name}: file cannot be opened", "Use reader 9 or later; the secret comes by text message.",
            "won't open",
            ("I can't open the {s}", "the {s} is a file my PC doesn't know", "double-clicking the {s} gives an error",
             "{s} shows only gibberish"),
        ),
        Treatment(
            "read", "{name}: explanation of contents", "Glossary of every line and abbreviation.", "explain",
            ("I don't understand what stands in my {s}", "what do the abbreviations in the {s} mean",
             "somebody explain the {s} to me", "{s} for dummies please"),
        ),
        Treatment(
            "share", "{name}: disclosure to outsiders", "Class C: only with a released copy.", "pass on",
            ("may I forward the {s} to a client", "is it fine to show the {s} to people outside",
             "can the {s} go to another firm", "is {a} confidential towards third parties"),
        ),
        Treatment(
            "need", "{name}: when it is mandatory", "Decision tree by amount, country and data class.", "required?",
            ("do we really need {a} for this", "in what cases is {a} compulsory", "can I do without {a}",
             "is {a} overkill for a small thing"),
        ),
    ),
}  # fmt: skip
