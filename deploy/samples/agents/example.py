# An example of a program that a model wrote: it computes, tries the network, and
# writes its result to a file.
import json, socket, statistics

numbers = [n * n % 97 for n in range(1000)]
try:
    socket.create_connection(("example.com", 443), timeout=5)
    network = "reached"
except OSError as error:
    network = str(error)
json.dump({"mean": statistics.mean(numbers), "network": network}, open("result.json", "w"))
print("done")
