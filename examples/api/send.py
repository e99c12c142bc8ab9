import json, os, urllib.request

request = urllib.request.Request(
    os.environ["HERALD_API"] + "/send",
    json.dumps({"to": {"users": ["42"]}, "text": "py: your order is on its way"}).encode(),
    {"Authorization": "Bearer " + os.environ["HERALD_KEY"],
     "Content-Type": "application/json", "Idempotency-Key": "order-7-shipped-py"})
with urllib.request.urlopen(request, timeout=15) as response:  # raises HTTPError if it was not sent
    print(json.load(response))
