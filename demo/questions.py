"""What the customers of two companies ask in the demo, and what the companies' models answer."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["COMPANIES", "QUESTIONS", "TOPICS", "Company", "answer"]


@dataclass(frozen=True)
class Company:
    """One tenant, and the facts in which its answers differ from the other's."""

    name: str
    account: str
    return_days: int
    shipping: str
    desk: str


COMPANIES = {
    "acme": Company("Acme", "Acme Pay", 30, "two working days", "help@acme.example"),
    "globex": Company("Globex", "Globex Wallet", 14, "three to five days", "care@globex.example"),
}


# Topic -> what the support desk answers, and the questions.
TOPICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "delivery": (
        "Parcels leave our warehouse the same day if you order before 3 pm and take {shipping}. The "
        "tracking link in your dispatch mail is renewed every hour; if it has not moved for two "
        "days, write to {desk} with the order number and we look for the parcel.",
        (
            "Where is my parcel? The tracking page has said 'in transit' since Monday.",
            "Can you deliver to a parcel locker instead of my flat?",
            "I ordered two lamps and only one came, is the second in another box?",
            "How long does delivery to the Canary Islands take?",
            "The courier left my box in the rain and the carton is soaked. What now?",
            "Do you deliver on Saturdays?",
            "My neighbour signed for a package and has no idea where it is.",
            "Can I change the delivery address of an order I placed an hour ago?",
            "What does express shipping cost for something that weighs 12 kg?",
            "The driver says nobody was home, but I was in all day.",
            "Will you ship a gift without the invoice in the box?",
        ),
    ),
    "returns": (
        "You can send back anything unused within {return_days} days; the label is in your account "
        "under Orders. We refund to the way you paid, normally within five working days of the "
        "parcel reaching us. Opened hygiene articles are the one exception.",
        (
            "How do I send back a pair of shoes that turned out too small?",
            "I have lost the return label, can I print another one?",
            "May I return a headset whose seal is already broken?",
            "How many days do I have to change my mind about a sofa?",
            "My refund was 8 euros short. Did you keep the shipping?",
            "You got my return on the 3rd, when do I see the money?",
            "Can I swap a blue jacket for a green one without paying twice?",
            "I threw the original carton away. Can I still return the blender?",
            "Is it possible to return only part of a bundle?",
            "The gift receipt has no prices. What will my aunt get back?",
        ),
    ),
    "payments": (
        "{account} takes cards, bank transfer and instalments. A payment that was declined is never "
        "collected: the amount you see is a reservation and disappears within three days. If it "
        "does not, send the date and the amount to {desk}.",
        (
            "Why was my card declined when there is enough money on it?",
            "I was charged twice for the same order, please check.",
            "Can I pay half with a voucher and half by card?",
            "Which instalment plans do you have for a laptop at 1,200?",
            "Is it safe to store my card number with you?",
            "There is a 1 euro charge from you that I do not recognise.",
            "How do I get an invoice with my company's VAT number?",
            "Can my employer pay for this order by bank transfer?",
            "My voucher code says 'expired' but it is valid until June.",
            "Do you charge extra for paying in Swiss francs?",
        ),
    ),
    "transfers": (
        "Transfers from {account} to another bank arrive the next working day, instant transfers "
        "within ten seconds. As long as a transfer shows 'scheduled' you can cancel it yourself; "
        "afterwards {desk} can ask the other bank to send it back.",
        (
            "I sent money to the wrong IBAN, can you stop it?",
            "How long does a transfer to another bank take?",
            "What is the daily limit for transfers from the app?",
            "A transfer I was expecting has not arrived. Where can it be stuck?",
            "Can I set up a standing order for my rent on the 1st?",
            "Why is my transfer 'under review' since this morning?",
            "What do I need to send dollars to a cousin in Denver?",
            "How do I cancel a standing order to an old landlord?",
            "Could you raise my transfer limit for one day? I am buying a car.",
            "Are instant transfers free at the weekend too?",
        ),
    ),
    "cards": (
        "Lock the card at once in the {account} app under Cards; you can unlock it if it turns up. A "
        "new card is free and takes {shipping}; the virtual one works right away. We will never ask "
        "you for the PIN, by mail, text or telephone.",
        (
            "I left my card in a taxi, how do I block it?",
            "How do I change the PIN of my debit card?",
            "My new card has not arrived after two weeks.",
            "Can I use the card in Japan, and what does it cost?",
            "The machine kept my card. How do I get it back?",
            "Contactless stopped working although the chip is fine.",
            "Can my daughter have a card on my account? She is 16.",
            "How do I add the card to my phone?",
            "My card runs out next month, do I have to do anything?",
            "Which number do I call from abroad if the card is stolen?",
        ),
    ),
    "security": (
        "Do not click on anything in that message: {company} never sends a link to sign in. Forward it "
        "to {desk}, change your password, and look at the list of devices in your settings. If money "
        "has left your account, lock it in the app first and then call us.",
        (
            "I got a text that my account is blocked with a link. Is that from you?",
            "Somebody signed in to my account from Lisbon, and it was not me.",
            "How do I switch on two-factor authentication?",
            "My old phone with the authenticator is gone. How do I sign in?",
            "A man on the phone said he was from your fraud team and wanted a code.",
            "I forgot my password and no longer have that e-mail address.",
            "How can I see which devices are signed in?",
            "Why must I confirm every purchase with the app since this week?",
            "Can you tell me whether my data were in last month's breach?",
            "I shared my screen with a stranger by mistake, what should I do first?",
        ),
    ),
    "account": (
        "You can change this yourself under Settings, Personal data. For a new name or date of birth "
        "we need a photo of an official document, which we delete after 30 days. Changes apply to "
        "the {company} shop and to {account} alike; questions go to {desk}.",
        (
            "I moved, where do I enter my new address?",
            "How do I change my surname after my wedding?",
            "Please close my account and delete all my data.",
            "Can two people share one account?",
            "Which documents do I need to open an account for a minor?",
            "How do I switch the app from German to English?",
            "I have two accounts by mistake. Can you merge them?",
            "Why do you need my tax number all of a sudden?",
            "How do I download all my statements from last year?",
            "My mother has died. How do we get access to her account?",
        ),
    ),
    "warranty": (
        "Everything {company} sells has a two-year warranty, from the day it reaches you. Describe the "
        "fault and add a photo at {desk}; we repair or replace it, and pay the postage both ways. "
        "You do not need the paper receipt, the order number is enough.",
        (
            "The washing machine stopped in the middle of its programme after 14 months.",
            "How long is the warranty on a refurbished phone?",
            "A zip broke on the second day, is that covered?",
            "Do I have to send the whole coffee maker back for a cracked lid?",
            "My headphones only play on the left side now.",
            "Is accidental damage covered if I bought the protection plan?",
            "The repair shop says the part is no longer made. What can you offer?",
            "Can I claim warranty on something I bought second-hand?",
            "The screen has three dead pixels, is that a defect for you?",
            "Who pays for sending a broken television back?",
        ),
    ),
    "fees": (
        "{account} costs nothing as long as one payment comes in each month, otherwise 2.90. Cash is "
        "free at our partners' machines; elsewhere the machine tells you its fee before you "
        "confirm. The full list is under Prices, and changes are announced two months ahead.",
        (
            "Why did you take 2.90 from my account on the 1st?",
            "How much do you charge for withdrawing cash abroad?",
            "Which of your accounts has no monthly fee for students?",
            "What interest do I get on savings right now?",
            "What does an overdraft of 500 cost for two weeks?",
            "Is there a fee for paper statements?",
            "What exchange rate do you use for card payments in pounds?",
            "Do you charge for closing a savings account early?",
            "How much is the metal card per year, and what do I get for it?",
        ),
    ),
    "products": (
        "You find measurements, materials and what is in the box under Details on each product's page. "
        "If a size is sold out, press Notify me: we write to you the hour it is back. Our advisers "
        "compare models for you at {desk}, weekdays from 8 to 8.",
        (
            "Does the desk lamp come with a bulb, and which socket is it?",
            "Is the hiking jacket warm enough for minus ten degrees?",
            "Will the 65 inch TV fit a wall mount with VESA 400?",
            "When will the grey office chair be back in stock?",
            "Is the baby blanket free of wool? Our son is allergic.",
            "Which of your vacuum cleaners is best for cat hair?",
            "Can the pan go into the oven, handle included?",
            "What is the difference between the 2023 and the 2024 model?",
            "Do your running shoes run small?",
            "Does the smart plug work without an internet connection?",
        ),
    ),
    "loyalty": (
        "You earn one point for each full euro at {company} and two if you pay with {account}. Points "
        "are added {return_days} days after delivery, are valid for three years, and 100 of them are "
        "worth one euro. Missing ones are added by {desk}.",
        (
            "How many points do I get for an order of 250?",
            "My points from the spring sale are missing.",
            "Do bonus points expire?",
            "Can I give my points to my sister?",
            "Which shops accept the points besides yours?",
            "I recommended you to a friend, where is my 20 euro bonus?",
            "How do I reach gold status, and how long does it last?",
            "Can I use points for shipping costs?",
            "Why did my points go down after a return?",
        ),
    ),
    "orders": (
        "Until it shows 'packed' you can change or cancel an order yourself under Orders. Later it is "
        "quickest to refuse the parcel: it comes back by itself and we refund it. You hear from us "
        "by mail at every step; if a mail is missing, look in spam or ask {desk}.",
        (
            "Can I still cancel an order I placed last night?",
            "I have had no confirmation mail, did my order go through?",
            "Please add a second filter to order 48213 before it leaves.",
            "Why was my order cancelled without a word?",
            "Do you match a lower price from another shop?",
            "The price dropped by 40 the day after I bought it.",
            "Can I order by telephone? I do not like computers.",
            "How do I order 60 mugs with our logo?",
            "What does 'back-ordered' mean on my order?",
            "Can you keep my order until I am back from holiday on the 20th?",
            "I chose the wrong colour, can you change it before it ships?",
        ),
    ),
}

QUESTIONS = tuple(question for _, questions in TOPICS.values() for question in questions)
_REPLIES = {question: reply for reply, questions in TOPICS.values() for question in questions}


def answer(tenant: str, text: str) -> str:
    """What the local model of a tenant says: different for any two tenants and questions."""
    company = COMPANIES[tenant]
    reply = _REPLIES[text].format(company=company.name, **vars(company))
    case = blake2b(f"{tenant}/{text}".encode(), digest_size=3).hexdigest().upper()
    return f"Thank you for asking {company.name}. {reply} Your case is {company.name}-{case}."
