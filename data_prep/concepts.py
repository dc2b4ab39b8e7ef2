"""The plain things of the demo: common, easy to recognise at 32 pixels, with short names.

One picture per concept ("cat", not also "cat face"), so that a held-out concept is really new.
`common()` deals the groups out in turn: every beginning of the list is a balanced little world.
"""

GROUPS = {
    "animal": """ox ant bat bug cat cow dog ewe fly fox owl pig rat bear bird crab deer dodo dove duck fish frog
        goat lion seal swan wolf worm bison camel eagle goose horse koala llama moose mouse otter panda shark
        skunk sloth snail snake squid T-Rex tiger whale zebra badger beaver beetle dragon lizard monkey parrot
        rabbit shrimp spider turkey turtle dolphin giraffe gorilla leopard lobster octopus peacock penguin
        raccoon rooster unicorn elephant flamingo hedgehog kangaroo scorpion butterfly crocodile jellyfish""",
    "food": """egg pie pear taco bacon bagel beans bread candy lemon mango melon olive onion peach pizza salt
        sushi banana butter carrot cookie garlic grapes potato tomato waffle avocado burrito coconut pretzel
        popcorn broccoli cherries cucumber doughnut dumpling eggplant mushroom pancakes sandwich croissant
        hamburger pineapple strawberry watermelon blueberries hot_dog ice_cream red_apple green_apple rice_ball
        beer_mug wine_glass french_fries honey_pot""",
    "thing": """axe bed key jar pen bell bomb bone coat coin door drum gear harp hook kite knot memo pill ring
        soap yarn banjo books brick broom chair crown dress flute jeans mirror radio razor scarf socks spoon
        watch wheel yo-yo anchor basket bucket camera candle crayon dagger feather gloves guitar hammer ladder
        laptop magnet pencil ribbon scroll shield shorts shower teapot ticket toilet trophy violin window wrench
        balloon battery compass glasses maracas package t-shirt toolbox trumpet backpack envelope keyboard
        lipstick lollipop notebook scissors umbrella briefcase telephone telescope saxophone microscope
        microphone top_hat light_bulb gem_stone teddy_bear alarm_clock television""",
    "vehicle": """bus ship taxi tram canoe ferry metro train bicycle rocket tractor airplane ambulance automobile
        helicopter locomotive motorcycle sailboat speedboat skateboard police_car racing_car fire_engine
        kick_scooter""",
    "face": """ghost robot alien skull baby hot_face cold_face nerd_face angry_face clown_face tired_face
        crying_face winking_face sleeping_face grinning_face smiling_face thinking_face""",
    "nature": """sun fire ice rock rose star wood cloud comet tulip cactus desert droplet rainbow snowman tornado
        volcano mountain seedling shamrock hibiscus sunflower snowflake palm_tree maple_leaf
        Christmas_tree""",
    "place": "hut bank tent hotel house castle church school factory hospital",
    "body": "ear eye leg foot nose brain mouth tongue tooth lungs thumbs_up",
    "sign": "plus minus divide multiply infinity stop_sign no_entry yin_yang bullseye keycap_0 keycap_5",
    "ball": "tennis baseball softball basketball volleyball soccer_ball",
    "flag": "Japan Italy France Spain Germany Brazil Canada China India Peru Sweden Greece",
}

ROLES = ("elf", "judge", "singer", "teacher", "vampire", "superhero", "health worker", "office worker")
"""Roles whose 15 cells (gender x skin tone) look most unlike each other."""


def common() -> list[tuple[str, str]]:
    """(English name, group) of the common concepts, the groups dealt out in turn by their sizes."""
    dealt = []
    for group, words in GROUPS.items():
        names = [word.replace("_", " ") for word in words.split()]
        dealt += [((i + 0.5) / len(names), name, group) for i, name in enumerate(names)]
    return [(name, group) for _, name, group in sorted(dealt)]
