"""Makes a topic, changes a setting, shows it, and deletes it again."""

from kbroker import Admin
from kbroker.clients.records import NewTopic
from kbroker.errors import TopicAlreadyExists

with Admin() as admin:
    try:
        admin.create_topics([NewTopic("example", num_partitions=3, topic_configs={"retention.ms": 60_000})])
    except TopicAlreadyExists as error:
        print(error)
    admin.alter_configs("example", {"retention.ms": 3_600_000})
    for topic in admin.describe_topics(["example"]):
        print(topic.name, len(topic.partitions), "partitions", topic.settings)
    admin.delete_topics(["example"])
    print("topics now:", admin.list_topics())
