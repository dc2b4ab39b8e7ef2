"""Every sentence we put around a name, a picture or a sound, in 14 languages.

The first phrasing of each list is the canonical one: evaluation asks with it, and training
documents use it most. Short on purpose: a word costs as much as a piece of a picture.
Answers are the bare thing asked for, so that they can be compared exactly.
"""

from collections.abc import Sequence

import numpy as np

CANONICAL_SHARE = 0.5
"""How often a training document uses the canonical phrasing."""

DRAW = {
    "en": ("Draw: {name}", "Please draw {name}.", "A picture of {name}", "Show me {name}!", "{name}?"),
    "es": ("Dibuja: {name}", "Una imagen de {name}"),
    "fr": ("Dessine : {name}", "Une image de {name}"),
    "de": ("Zeichne: {name}", "Ein Bild von {name}"),
    "it": ("Disegna: {name}", "Un’immagine di {name}"),
    "pt": ("Desenhe: {name}", "Uma imagem de {name}"),
    "ru": ("Нарисуй: {name}", "Картинка: {name}"),
    "tr": ("Çiz: {name}", "Resim: {name}"),
    "id": ("Gambarlah: {name}", "Gambar {name}"),
    "zh": ("画：{name}", "{name}的图片"),
    "ko": ("그려 줘: {name}", "{name} 그림"),
    "fa": ("بکش: {name}", "تصویر {name}"),
    "ar": ("ارسم: {name}", "صورة {name}"),
    "ja": ("描いて：{name}", "{name}の絵"),
}
NAME = {
    "en": ("What is it?", "What is this?", "Name it.", "What do you see?", "In English?"),
    "es": ("¿Qué es?", "¿Cómo se llama?"),
    "fr": ("Qu’est-ce que c’est ?", "Ça s’appelle comment ?"),
    "de": ("Was ist das?", "Wie heißt das?"),
    "it": ("Che cos’è?", "Come si chiama?"),
    "pt": ("O que é?", "Como se chama?"),
    "ru": ("Что это?", "Как это называется?"),
    "tr": ("Bu ne?", "Bunun adı ne?"),
    "id": ("Apa ini?", "Apa namanya?"),
    "zh": ("这是什么？", "它叫什么？"),
    "ko": ("이게 뭐야?", "이름이 뭐야?"),
    "fa": ("این چیست؟", "نامش چیست؟"),
    "ar": ("ما هذا؟", "ما اسمه؟"),
    "ja": ("これは何？", "何といいますか？"),
}
LISTEN = {
    "en": ("Write it down.", "What was said?", "Transcribe.", "What do you hear?"),
    "es": ("Escríbelo.", "¿Qué se oye?"),
    "fr": ("Écris-le.", "Qu’entends-tu ?"),
    "de": ("Schreib es auf.", "Was hörst du?"),
    "it": ("Scrivilo.", "Che cosa senti?"),
    "pt": ("Escreva.", "O que se ouve?"),
    "ru": ("Запиши.", "Что ты слышишь?"),
    "tr": ("Yaz.", "Ne duyuyorsun?"),
    "id": ("Tuliskan.", "Apa yang terdengar?"),
    "zh": ("写下来。", "你听到什么？"),
    "ko": ("받아 적어.", "뭐라고 들려?"),
    "fa": ("بنویس.", "چه می‌شنوی؟"),
    "ar": ("اكتبه.", "ماذا تسمع؟"),
    "ja": ("書いて。", "何と聞こえますか？"),
}
TRANSLATE = {   # keyed by the language of the answer
    "en": ("In English: {name}", "English for {name}?", "Say {name} in English.", "{name} means?"),
    "es": ("En español: {name}", "¿Cómo se dice {name} en español?"),
    "fr": ("En français : {name}", "Comment dit-on {name} en français ?"),
    "de": ("Auf Deutsch: {name}", "Wie sagt man {name} auf Deutsch?"),
    "it": ("In italiano: {name}", "Come si dice {name} in italiano?"),
    "pt": ("Em português: {name}", "Como se diz {name} em português?"),
    "ru": ("По-русски: {name}", "Как по-русски {name}?"),
    "tr": ("Türkçe: {name}", "{name} Türkçe ne demek?"),
    "id": ("Dalam bahasa Indonesia: {name}", "Apa bahasa Indonesia {name}?"),
    "zh": ("用中文：{name}", "{name}用中文怎么说？"),
    "ko": ("한국어로: {name}", "{name}, 한국어로 뭐야?"),
    "fa": ("به فارسی: {name}", "{name} به فارسی چیست؟"),
    "ar": ("بالعربية: {name}", "ما معنى {name} بالعربية؟"),
    "ja": ("日本語で：{name}", "{name}は日本語で？"),
}
SPEECH_DRAW = {
    "en": ("Draw it.", "Draw what you hear.", "Show it.", "A picture, please."),
    "es": ("Dibújalo.",), "fr": ("Dessine-le.",), "de": ("Zeichne es.",), "it": ("Disegnalo.",), "pt": ("Desenhe isso.",),
    "ru": ("Нарисуй это.",), "tr": ("Onu çiz.",), "id": ("Gambarlah itu.",), "zh": ("画出来。",), "ko": ("그걸 그려 줘.",),
    "fa": ("آن را بکش.",), "ar": ("ارسمه.",), "ja": ("それを描いて。",),
}
WATCH = {
    "en": ("What happens?", "Describe the video.", "What moves, and how?", "What do you see here?"),
    "es": ("¿Qué pasa?",), "fr": ("Que se passe-t-il ?",), "de": ("Was passiert?",), "it": ("Che succede?",),
    "pt": ("O que acontece?",), "ru": ("Что происходит?",), "tr": ("Ne oluyor?",), "id": ("Apa yang terjadi?",),
    "zh": ("发生了什么？",), "ko": ("무슨 일이야?",), "fa": ("چه می‌شود؟",), "ar": ("ماذا يحدث؟",), "ja": ("何が起こる？",),
}
MOTION = {   # English is a sentence; elsewhere name and motion stand apart, which needs no article or case
    "en": {"left": "the {name} moves left", "right": "the {name} moves right", "up": "the {name} moves up",
           "down": "the {name} moves down", "grows": "the {name} grows", "shrinks": "the {name} shrinks"},
    "es": {"left": "{name}: a la izquierda", "right": "{name}: a la derecha", "up": "{name}: hacia arriba",
               "down": "{name}: hacia abajo", "grows": "{name}: crece", "shrinks": "{name}: se encoge"},
    "fr": {"left": "{name} : à gauche", "right": "{name} : à droite", "up": "{name} : vers le haut",
               "down": "{name} : vers le bas", "grows": "{name} : grandit", "shrinks": "{name} : rétrécit"},
    "de": {"left": "{name}: nach links", "right": "{name}: nach rechts", "up": "{name}: nach oben",
               "down": "{name}: nach unten", "grows": "{name}: wächst", "shrinks": "{name}: schrumpft"},
    "it": {"left": "{name}: a sinistra", "right": "{name}: a destra", "up": "{name}: in alto",
               "down": "{name}: in basso", "grows": "{name}: cresce", "shrinks": "{name}: rimpicciolisce"},
    "pt": {"left": "{name}: para a esquerda", "right": "{name}: para a direita", "up": "{name}: para cima",
               "down": "{name}: para baixo", "grows": "{name}: cresce", "shrinks": "{name}: encolhe"},
    "ru": {"left": "{name}: влево", "right": "{name}: вправо", "up": "{name}: вверх",
               "down": "{name}: вниз", "grows": "{name}: растёт", "shrinks": "{name}: уменьшается"},
    "tr": {"left": "{name}: sola", "right": "{name}: sağa", "up": "{name}: yukarı",
               "down": "{name}: aşağı", "grows": "{name}: büyüyor", "shrinks": "{name}: küçülüyor"},
    "id": {"left": "{name}: ke kiri", "right": "{name}: ke kanan", "up": "{name}: ke atas",
               "down": "{name}: ke bawah", "grows": "{name}: membesar", "shrinks": "{name}: mengecil"},
    "zh": {"left": "{name}：向左", "right": "{name}：向右", "up": "{name}：向上",
               "down": "{name}：向下", "grows": "{name}：变大", "shrinks": "{name}：变小"},
    "ko": {"left": "{name}: 왼쪽으로", "right": "{name}: 오른쪽으로", "up": "{name}: 위로",
               "down": "{name}: 아래로", "grows": "{name}: 커진다", "shrinks": "{name}: 작아진다"},
    "fa": {"left": "{name}: به چپ", "right": "{name}: به راست", "up": "{name}: به بالا",
               "down": "{name}: به پایین", "grows": "{name}: بزرگ می‌شود", "shrinks": "{name}: کوچک می‌شود"},
    "ar": {"left": "{name}: إلى اليسار", "right": "{name}: إلى اليمين", "up": "{name}: إلى الأعلى",
               "down": "{name}: إلى الأسفل", "grows": "{name}: يكبر", "shrinks": "{name}: يصغر"},
    "ja": {"left": "{name}：左へ", "right": "{name}：右へ", "up": "{name}：上へ",
               "down": "{name}：下へ", "grows": "{name}：大きくなる", "shrinks": "{name}：小さくなる"},
}
DIGIT_ASK = {
    "en": ("Which digit?", "What number is it?", "Read the digit.", "Which number?"),
    "es": ("¿Qué cifra?",), "fr": ("Quel chiffre ?",), "de": ("Welche Ziffer?",), "it": ("Che cifra?",),
    "pt": ("Que algarismo?",), "ru": ("Какая цифра?",), "tr": ("Hangi rakam?",), "id": ("Angka berapa?",),
    "zh": ("什么数字？",), "ko": ("무슨 숫자야?",), "fa": ("کدام رقم؟",), "ar": ("أي رقم؟",), "ja": ("どの数字？",),
}
DIGIT_DRAW = {
    "en": ("Write a {digit} by hand.", "A handwritten {digit}", "Draw the digit {digit}.", "Hand: {digit}"),
    "es": ("Un {digit} a mano",), "fr": ("Un {digit} à la main",), "de": ("Eine {digit} von Hand",),
    "it": ("Un {digit} a mano",), "pt": ("Um {digit} à mão",), "ru": ("Цифра {digit} от руки",),
    "tr": ("Elle yazılmış {digit}",), "id": ("Angka {digit} tulisan tangan",), "zh": ("手写的{digit}",),
    "ko": ("손으로 쓴 {digit}",), "fa": ("رقم {digit} دست‌نویس",), "ar": ("رقم {digit} بخط اليد",), "ja": ("手書きの{digit}",),
}
DIGIT_WORDS = {
    "en": "zero one two three four five six seven eight nine",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "pt": "zero um dois três quatro cinco seis sete oito nove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять",
    "tr": "sıfır bir iki üç dört beş altı yedi sekiz dokuz",
    "id": "nol satu dua tiga empat lima enam tujuh delapan sembilan",
    "zh": "零 一 二 三 四 五 六 七 八 九",
    "ko": "영 일 이 삼 사 오 육 칠 팔 구",
    "fa": "صفر یک دو سه چهار پنج شش هفت هشت نه",
    "ar": "صفر واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة",
    "ja": "零 一 二 三 四 五 六 七 八 九",
}
WORD_ASK = {   # the digit as a word
    "en": ("The digit in words?", "Spell the digit.", "Write the number as a word.", "In letters?"),
    "es": ("¿La cifra en letras?",), "fr": ("Le chiffre en lettres ?",), "de": ("Die Ziffer in Worten?",),
    "it": ("La cifra in lettere?",), "pt": ("O algarismo por extenso?",), "ru": ("Цифра словом?",),
    "tr": ("Rakam yazıyla?",), "id": ("Angka dalam kata?",), "zh": ("数字的汉字？",), "ko": ("숫자를 글로?",),
    "fa": ("رقم به حروف؟",), "ar": ("الرقم بالحروف؟",), "ja": ("数字を漢字で？",),
}
AND = {"en": "and", "es": "y", "fr": "et", "de": "und", "it": "e", "pt": "e", "ru": "и", "tr": "ve", "id": "dan",
       "zh": "和", "ko": "그리고", "fa": "و", "ar": "و", "ja": "と"}
SAME = {
    "en": ("Are they the same?", "The same thing?", "Does the sound name the picture?", "Do they match?"),
    "es": ("¿Son lo mismo?",), "fr": ("Est-ce la même chose ?",), "de": ("Ist es dasselbe?",), "it": ("Sono la stessa cosa?",),
    "pt": ("São a mesma coisa?",), "ru": ("Это одно и то же?",), "tr": ("Aynı şey mi?",), "id": ("Apakah sama?",),
    "zh": ("一样吗？",), "ko": ("같은 거야?",), "fa": ("یکی هستند؟",), "ar": ("هل هما نفس الشيء؟",), "ja": ("同じもの？",),
}
YES_NO = {"en": ("yes", "no"), "es": ("sí", "no"), "fr": ("oui", "non"), "de": ("ja", "nein"), "it": ("sì", "no"),
          "pt": ("sim", "não"), "ru": ("да", "нет"), "tr": ("evet", "hayır"), "id": ("ya", "tidak"), "zh": ("是", "不是"),
          "ko": ("네", "아니요"), "fa": ("بله", "نه"), "ar": ("نعم", "لا"), "ja": ("はい", "いいえ")}
BOTH = {
    "en": ("What are they?", "Name both.", "Which things are these?", "Name them all."),
    "es": ("¿Qué son?",), "fr": ("Qu’est-ce que c’est, tout ça ?",), "de": ("Was sind das?",), "it": ("Che cosa sono?",),
    "pt": ("O que são?",), "ru": ("Назови оба.",), "tr": ("Bunlar ne?",), "id": ("Apa saja ini?",), "zh": ("这些是什么？",),
    "ko": ("이것들은 뭐야?",), "fa": ("این‌ها چیستند؟",), "ar": ("ما هذه؟",), "ja": ("これらは何？",),
}
IDEAS = ("Two ideas in {first} and {second}?", "Ideas: {first}, {second}", "What could be {first} and {second}?",
         "Give me two ideas, {first} and {second}.")
ABOUT = (   # plain English text about a thing whose group we know
    "{Name} is a kind of {group}.", "Which {group}? {Name}.", "Of all {group} pictures, this one is called {name}.",
    "{Name}: {group}.",
)
WRITTEN = ("{Name} is {other} in {language}.", "In {language}, {name} is called {other}.",
           "{other} ({language}): {name}.", "{language} for {name}: {other}.")
LANGUAGE_NAMES = {"en": "English", "es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "pt": "Portuguese",
                  "ru": "Russian", "tr": "Turkish", "id": "Indonesian", "zh": "Chinese", "ko": "Korean",
                  "fa": "Persian", "ar": "Arabic", "ja": "Japanese"}
TABLES = (DRAW, NAME, LISTEN, TRANSLATE, SPEECH_DRAW, WATCH, DIGIT_ASK, DIGIT_DRAW, WORD_ASK, SAME, BOTH)


def pick(phrasings: Sequence[str], rng: np.random.Generator) -> str:
    """A phrasing for a training document: often the canonical one."""
    if len(phrasings) == 1 or rng.random() < CANONICAL_SHARE:
        return phrasings[0]
    return phrasings[1 + int(rng.integers(len(phrasings) - 1))]


def article(name: str) -> str:
    """English name with "a" or "an": enough for colours and shapes, not for "jeans"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def digit_word(digit: int, lang: str) -> str:
    return DIGIT_WORDS[lang].split()[digit]
